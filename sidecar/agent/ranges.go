package agent

import (
	"net/netip"
	"slices"
)

// ranges finds what an address stands for: the value of the narrowest range that holds it, as WireGuard does with allowed IPs. It does
// not change once it is made, and finding allocates nothing.
type ranges[T any] struct {
	list []rangeOf[T] // by address; of two that begin at one, the wider first
}

type rangeOf[T any] struct {
	netip.Prefix
	value T
	wider int // index of the narrowest range that holds this one; -1: none does
}

// newRanges takes its list over. Of ranges that are listed twice, the last one counts.
func newRanges[T any](list []rangeOf[T]) ranges[T] {
	slices.SortStableFunc(list, func(a, b rangeOf[T]) int { return a.Compare(b.Prefix) })
	for i := range list {
		j := i - 1
		for j >= 0 && !list[j].Contains(list[i].Addr()) { // what holds the one before may hold this one too, and nothing else can
			j = list[j].wider
		}
		list[i].wider = j
	}
	return ranges[T]{list}
}

// find returns false where no range holds the address.
func (r ranges[T]) find(a netip.Addr) (value T, ok bool) {
	i, _ := slices.BinarySearchFunc(r.list, a, func(at rangeOf[T], a netip.Addr) int {
		if at.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	for i--; i >= 0; i = r.list[i].wider {
		if r.list[i].Contains(a) {
			return r.list[i].value, true
		}
	}
	return value, false
}
