package agent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// owners finds whose an inner address is. A peer is known by the first of its addresses: unlike a number it stays the same when others
// come and go. The zero address stands for those from which a gateway dials for many. Nil knows nobody.
type owners struct {
	lengths []int // of prefixes in use, longest first
	of      map[netip.Prefix]netip.Addr
}

// peerOf is the address that stands for all of a peer's; one that is nobody's stands for itself.
func (o *owners) peerOf(a netip.Addr) netip.Addr {
	if o == nil {
		return a
	}
	for _, n := range o.lengths {
		p, err := a.Prefix(n)
		if err != nil {
			continue // too long for IPv4
		}
		if owner, ok := o.of[p]; ok {
			return owner
		}
	}
	return a
}

// newOwners takes each group for one peer's, and ofMany, which may be in a group too, for nobody's in particular.
func newOwners(groups [][]netip.Prefix, ofMany []netip.Prefix) *owners {
	o := &owners{of: map[netip.Prefix]netip.Addr{}}
	lengths := map[int]bool{}
	for _, g := range groups {
		for _, p := range g {
			o.of[p.Masked()] = g[0].Addr()
			lengths[p.Bits()] = true
		}
	}
	for _, p := range ofMany {
		o.of[p.Masked()] = netip.Addr{}
		lengths[p.Bits()] = true
	}
	o.lengths = slices.SortedFunc(maps.Keys(lengths), func(a, b int) int { return b - a })
	return o
}

// ownersOf groups the addresses of a peer, or of each of those that a gateway stands for.
func ownersOf(p wire.Peer) [][]netip.Prefix {
	if len(p.Owners) == 0 || len(p.Owners) != len(p.AllowedIPs) {
		return [][]netip.Prefix{p.Ranges()}
	}
	groups := make([][]netip.Prefix, len(p.AllowedIPs))
	for i, o := range p.Owners {
		groups[o] = append(groups[o], p.AllowedIPs[i])
	}
	return groups
}

// allOwners is what a file says: peers stand for nobody but themselves.
func allOwners(peers map[key.Public]datapath.Peer) *owners {
	var groups [][]netip.Prefix
	for _, p := range peers {
		groups = append(groups, p.AllowedIPs)
	}
	return newOwners(groups, nil)
}
