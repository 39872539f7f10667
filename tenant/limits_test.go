package tenant

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// TestNumberOwners: what is nobody's behind the gateway is the gateway's own and has number 0, and nothing else has; what one outside peer
// has, mapped or not, has one number of its own.
func TestNumberOwners(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6)) //nolint:gosec // a test wants to be repeatable
	for range 500 {
		var all []netip.Prefix
		outside, owner := make([]wire.Peer, r.IntN(5)), map[netip.Prefix]int{}
		for i := range 1 + r.IntN(9) {
			p := netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", r.IntN(3), i))
			all = append(all, p)
			if n := r.IntN(len(outside) + 1); n > 0 {
				owner[p] = n
				if peer := &outside[n-1]; r.IntN(3) == 0 {
					peer.Mappings = append(peer.Mappings, wire.Mapping{Real: netip.MustParsePrefix("192.168.1.0/24"), Seen: p})
				} else {
					peer.AllowedIPs = append(peer.AllowedIPs, p)
				}
			}
		}
		slices.SortFunc(all, netip.Prefix.Compare)
		got := numberOwners(all, outside)
		if got == nil {
			got = make([]int, len(all))
		}
		number, taken := map[int]int{0: 0}, map[int]int{0: 0} // by owner, and the other way round
		for i, p := range all {
			n, o := got[i], owner[p]
			if first, known := number[o]; known && first != n {
				t.Fatalf("%v of %v: %s has number %d, want %d", got, all, p, n, first)
			}
			if first, known := taken[n]; known && first != o {
				t.Fatalf("%v of %v: %s has the number of another", got, all, p)
			}
			number[o], taken[n] = n, o
		}
	}
}
