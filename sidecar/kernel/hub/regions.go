//go:build linux

package hub

import (
	"cmp"
	"net/netip"
	"slices"
)

// region is addresses in a row that are one peer's, from first to before end.
type region struct {
	first, end netip.Addr
	of         uint32
}

// nobody's addresses are never passed on to, nor for.
const nobody = 0

// owned is a range and whose it is, as far as there is no narrower one.
type owned struct {
	netip.Prefix
	of uint32
}

// regionsOf takes ranges apart so that none overlaps another: an address is its narrowest range's, as with WireGuard's allowed IPs. Of ranges
// that are listed twice, the last one counts. What is nobody's is left out.
func regionsOf(list []owned) []region {
	slices.SortStableFunc(list, func(a, b owned) int { return a.Compare(b.Prefix) })
	s := sweep{}
	for _, o := range list {
		s.closeBefore(o.Addr())
		s.emit(o.Addr())
		s.open = append(s.open, o)
		s.at = o.Addr()
	}
	s.closeBefore(netip.Addr{})
	return slices.DeleteFunc(s.out, func(r region) bool { return r.of == nobody })
}

// sweep goes through all addresses in their order.
type sweep struct {
	at   netip.Addr
	open []owned // ranges that hold at, the narrowest last
	out  []region
}

// closeBefore ends the ranges that do not hold a; an invalid a is after all of them.
func (s *sweep) closeBefore(a netip.Addr) {
	for len(s.open) > 0 && !s.open[len(s.open)-1].Contains(a) {
		end := after(s.open[len(s.open)-1].Prefix)
		s.emit(end)
		s.at, s.open = end, s.open[:len(s.open)-1]
	}
}

// emit makes a region of what is before end; an invalid one is after the last address, where nothing can be anybody's.
func (s *sweep) emit(end netip.Addr) {
	if len(s.open) == 0 || !s.at.IsValid() || s.at == end {
		return
	}
	of := s.open[len(s.open)-1].of
	if n := len(s.out); n > 0 && s.out[n-1].end == s.at && s.out[n-1].of == of {
		s.out[n-1].end = end
		return
	}
	s.out = append(s.out, region{s.at, end, of})
}

// after is the address after a range; invalid where the range holds the last one.
func after(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for i := range last {
		bits := max(0, min(8, p.Bits()-8*i)) // of this byte that are the range's
		last[i] |= 0xff >> bits
	}
	a, _ := netip.AddrFromSlice(last)
	return a.Next()
}

// changes are the regions that go and those that come.
func changes(was, is []region) (gone, come []region) {
	for i, j := 0, 0; i < len(was) || j < len(is); {
		switch {
		case j == len(is) || i < len(was) && compare(was[i], is[j]) < 0:
			gone = append(gone, was[i])
			i++
		case i == len(was) || compare(was[i], is[j]) > 0:
			come = append(come, is[j])
			j++
		default:
			i, j = i+1, j+1
		}
	}
	return gone, come
}

func compare(a, b region) int {
	return cmp.Or(a.first.Compare(b.first), a.end.Compare(b.end), cmp.Compare(a.of, b.of))
}

// common are the regions of what is the same one's in both.
func common(a, b []region) (out []region) {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		first, end := later(a[i].first, b[j].first), earlier(a[i].end, b[j].end)
		if a[i].of == b[j].of && first.Less(end) {
			out = append(out, region{first, end, a[i].of})
		}
		if a[i].end.Less(b[j].end) {
			i++
		} else {
			j++
		}
	}
	return out
}

func later(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func earlier(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}
