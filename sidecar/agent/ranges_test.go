package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The narrowest range counts, as a search through all of them says.
func TestRanges(t *testing.T) {
	for seed := range uint64(500) {
		g := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test wants to be repeatable
		address := func() netip.Addr {
			if g.IntN(2) == 0 {
				return netip.AddrFrom4([4]byte{10, byte(g.IntN(3)), byte(g.IntN(3)), byte(g.IntN(4) * 85)})
			}
			return netip.AddrFrom16([16]byte{0xfd, byte(g.IntN(2)), 15: byte(g.IntN(4) * 85)})
		}
		values := map[netip.Prefix]int{}
		var list []rangeOf[int]
		for i := range g.IntN(40) {
			a := address()
			p := netip.PrefixFrom(a, a.BitLen()-g.IntN(4)*g.IntN(9)).Masked()
			if g.IntN(20) == 0 {
				p = netip.PrefixFrom(a, 0).Masked()
			}
			values[p] = i
			list = append(list, rangeOf[int]{Prefix: p, value: i})
		}
		r := newRanges(list)
		for range 100 {
			a := address()
			best, want := netip.Prefix{}, 0
			for p, v := range values {
				if p.Contains(a) && (!best.IsValid() || p.Bits() > best.Bits()) {
					best, want = p, v
				}
			}
			if got, ok := r.find(a); ok != best.IsValid() || got != want {
				t.Fatalf("seed %d: %s is %d, %t; want %d of %s", seed, a, got, ok, want, best)
			}
		}
		if _, ok := r.find(netip.Addr{}); ok {
			t.Fatal("no address is in a range")
		}
	}
}

func TestRangesDoNotAllocate(t *testing.T) {
	r, a := manyRanges(1000), netip.MustParseAddr("10.0.3.7")
	if n := testing.AllocsPerRun(100, func() { r.find(a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func manyRanges(n int) ranges[int] {
	var list []rangeOf[int]
	for i := range n {
		list = append(list, rangeOf[int]{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), value: i})
	}
	return newRanges(list)
}

func BenchmarkRanges(b *testing.B) {
	for _, n := range []int{10, 4000} {
		r, a := manyRanges(n), netip.MustParseAddr("10.0.0.7")
		b.Run(fmt.Sprintf("find/ranges=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := r.find(a); !ok {
					b.Fatal("not found")
				}
			}
		})
	}
}
