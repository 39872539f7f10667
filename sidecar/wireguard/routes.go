package wireguard

import (
	"net/netip"
	"slices"
)

// routes finds the peer that an inner address belongs to: the one whose allowed IP matches longest. Members of a tunnel have
// single addresses, so there are few different lengths, and one look into a map for each length in use is the answer. Its
// owner locks.
type routes struct {
	v4, v6 family
}

// family is one address family's allowed IPs.
type family struct {
	lengths []int // in use, longest first
	count   [129]int
	owner   map[netip.Prefix]*peer
}

func (r *routes) family(a netip.Addr) *family {
	if a.Is4() {
		return &r.v4
	}
	return &r.v6
}

// lookup returns nil where no peer may have the address.
func (r *routes) lookup(a netip.Addr) *peer {
	f := r.family(a)
	for _, n := range f.lengths {
		p, err := a.Prefix(n)
		if err != nil {
			return nil
		}
		if owner := f.owner[p]; owner != nil {
			return owner
		}
	}
	return nil
}

// set gives a prefix, which is masked, to a peer, whoever had it before.
func (r *routes) set(ip netip.Prefix, p *peer) {
	f := r.family(ip.Addr())
	if f.owner == nil {
		f.owner = make(map[netip.Prefix]*peer)
	}
	if _, had := f.owner[ip]; !had {
		if f.count[ip.Bits()]++; f.count[ip.Bits()] == 1 {
			f.lengths = append(f.lengths, ip.Bits())
			slices.SortFunc(f.lengths, func(a, b int) int { return b - a })
		}
	}
	f.owner[ip] = p
}

// unset takes a prefix from the peer, if it still has it.
func (r *routes) unset(ip netip.Prefix, p *peer) {
	f := r.family(ip.Addr())
	if f.owner[ip] != p {
		return
	}
	delete(f.owner, ip)
	if f.count[ip.Bits()]--; f.count[ip.Bits()] == 0 {
		f.lengths = slices.DeleteFunc(f.lengths, func(n int) bool { return n == ip.Bits() })
	}
}
