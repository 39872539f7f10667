//go:build linux

package hub

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// ownerOf is whose an address is, by looking at every range.
func ownerOf(list []owned, a netip.Addr) (of uint32) {
	bits := -1
	for _, o := range list {
		if o.Contains(a) && o.Bits() >= bits {
			of, bits = o.of, o.Bits()
		}
	}
	return of
}

func inRegions(list []region, a netip.Addr) (of uint32, found int) {
	for _, r := range list {
		if r.first.Compare(a) <= 0 && a.Compare(r.end) < 0 {
			of = r.of
			found++
		}
	}
	return of, found
}

func TestRegionsAreWhatTheNarrowestRangeSays(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	address := func() netip.Addr {
		if rnd.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, 0, byte(rnd.IntN(2)), byte(rnd.Uint32())})
		}
		a := netip.MustParseAddr("fd00::").As16()
		a[15], a[14] = byte(rnd.Uint32()), byte(rnd.IntN(2))
		return netip.AddrFrom16(a)
	}
	var before []region
	for round := range 300 {
		var list []owned
		for range rnd.IntN(20) {
			a := address()
			bits := a.BitLen() - rnd.IntN(10)
			if rnd.IntN(20) == 0 {
				bits = 0
			}
			list = append(list, owned{netip.PrefixFrom(a, bits).Masked(), rnd.Uint32N(4)})
		}
		list = append(list, owned{netip.MustParsePrefix("224.0.0.0/3"), nobody}, owned{netip.MustParsePrefix("ff00::/8"), nobody})
		regions := regionsOf(slices.Clone(list))
		for range 300 {
			a := address()
			want := ownerOf(list, a)
			got, found := inRegions(regions, a)
			if got != want || found > 1 || found == 1 && want == nobody {
				t.Fatalf("round %d: %s is %d's in %d regions, want %d\n%v\n%v", round, a, got, found, want, list, regions)
			}
		}
		for i, r := range regions {
			if !r.end.IsValid() || r.first.Compare(r.end) >= 0 || i > 0 && regions[i-1].end.Compare(r.first) > 0 && r.first.Is4() == regions[i-1].first.Is4() {
				t.Fatalf("region %v after %v", r, regions[max(0, i-1)])
			}
		}
		gone, come := changes(before, regions)
		after := slices.DeleteFunc(slices.Clone(before), func(r region) bool { return slices.Contains(gone, r) })
		after = append(after, come...)
		slices.SortFunc(after, compare)
		if !slices.Equal(after, regions) {
			t.Fatalf("%v and what changes make %v, want %v", before, after, regions)
		}
		same := common(before, regions)
		for range 300 {
			a := address()
			was, _ := inRegions(before, a)
			is, _ := inRegions(regions, a)
			if got, _ := inRegions(same, a); got != nobody && (got != was || got != is) || got == nobody && was == is && was != nobody {
				t.Fatalf("%s was %d's and is %d's, and %d's in both", a, was, is, got)
			}
		}
		before = regions
	}
}

func TestRegionsAtTheEnds(t *testing.T) {
	p := netip.MustParsePrefix
	got := regionsOf([]owned{{p("0.0.0.0/0"), 1}, {p("::/0"), 2}, {p("224.0.0.0/3"), nobody}, {p("0.0.0.0/8"), nobody}, {p("ff00::/8"), nobody}, {p("10.0.0.1/32"), 3}, {p("10.0.0.1/32"), nobody}})
	a := netip.MustParseAddr
	want := []region{{a("1.0.0.0"), a("10.0.0.1"), 1}, {a("10.0.0.2"), a("224.0.0.0"), 1}, {a("::"), a("ff00::"), 2}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
