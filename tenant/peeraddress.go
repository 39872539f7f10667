package tenant

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Peers' own addresses inside the tunnel. Those that nobody chose are given out once and kept in the peer's status. Members get theirs
// from the bottom of the IPv4 pool and peers from the top, by controllers that do not wait for each other: should they meet, the member
// keeps the address and the peer is given another. A peer keeps its own until it is deleted, whatever becomes of it meanwhile: they are
// in a file somewhere.

// ownAddresses are those that a peer has chosen, or else was given before and may keep. needs says that it is to be given what it lacks.
func (c *contest) ownAddresses(p *v1alpha1.TunnelPeer) (own []netip.Addr, needs bool, d Decision) {
	ranges := [2]netip.Prefix{IPv4Pool(c.tunnel), IPv6Prefix(c.tunnel)}
	for _, s := range p.Spec.Addresses {
		a, err := netip.ParseAddr(s)
		if err != nil || !slices.ContainsFunc(ranges[:], func(r netip.Prefix) bool { return isHost(r, a) }) {
			return nil, false, Decision{ReasonInvalid, fmt.Sprintf("spec.addresses: %q is not a host's address in %s", bounded(s), rangesOf(ranges))}
		}
		if owner, taken := c.addresses[a]; taken {
			return nil, false, Decision{ReasonDuplicateAddress, fmt.Sprintf("spec.addresses: %s belongs to %s already", a, owner)}
		}
		if slices.ContainsFunc(own, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return nil, false, Decision{ReasonInvalid, fmt.Sprintf("spec.addresses: %s is a second one of its family, want one at most", a)}
		}
		own = append(own, a)
	}
	if len(own) > 0 {
		return own, false, Decision{}
	}
	return c.given(p), len(p.Spec.Routes) == 0, Decision{}
}

// given are the addresses that a peer was given before and that it may keep: they are still the tunnel's, and nobody else's.
func (c *contest) given(p *v1alpha1.TunnelPeer) (own []netip.Addr) {
	ranges := [2]netip.Prefix{IPv4Pool(c.tunnel), IPv6Prefix(c.tunnel)}
	for _, s := range p.Status.Addresses {
		a, err := netip.ParseAddr(s)
		_, taken := c.addresses[a]
		if err == nil && !taken && slices.ContainsFunc(ranges[:], func(r netip.Prefix) bool { return isHost(r, a) }) &&
			!slices.ContainsFunc(own, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			own = append(own, a)
		}
	}
	return own
}

// give adds what a peer lacks of both families. It is left without an IPv4 address where there is none.
func (c *contest) give(e *entry) {
	own := e.parsed.addresses
	taken := func(a netip.Addr) bool { _, ok := c.addresses[a]; return ok }
	has := func(v4 bool) bool { return slices.ContainsFunc(own, func(a netip.Addr) bool { return a.Is4() == v4 }) }
	if pool := IPv4Pool(c.tunnel); pool.IsValid() && !has(true) {
		if a, ok := lastIPv4(pool, taken); ok {
			own = append(own, a)
		} else if e.decision.Accepted() {
			e.decision.Message += fmt.Sprintf(", without an IPv4 address: all of spec.addressing.ipv4Pool %s are in use", pool)
		}
	}
	if prefix := IPv6Prefix(c.tunnel); prefix.IsValid() && !has(false) {
		own = append(own, MemberIPv6(prefix, e.of.UID, taken))
	}
	slices.SortFunc(own, netip.Addr.Compare)
	e.parsed.addresses = own
	c.hold(e.of.Name, own)
}

// isHost says whether an address of a range may be a host's.
func isHost(r netip.Prefix, a netip.Addr) bool {
	return r.IsValid() && r.Contains(a) && a.Zone() == "" && a != r.Addr() && (a.Is6() || a != broadcast(r))
}

// lastIPv4 is the highest free address of a pool.
func lastIPv4(pool netip.Prefix, taken func(netip.Addr) bool) (netip.Addr, bool) {
	for a := broadcast(pool).Prev(); pool.Addr().Less(a); a = a.Prev() {
		if !taken(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func rangesOf(ranges [2]netip.Prefix) string {
	if !ranges[0].IsValid() {
		return ranges[1].String() + " (the tunnel has no addressing.ipv4Pool)"
	}
	return ranges[0].String() + " or " + ranges[1].String()
}

// peerAddresses are what the peers of a tunnel have chosen or were given, whatever becomes of them.
func peerAddresses(t *v1alpha1.TenantTunnel, peers []v1alpha1.TunnelPeer) (out []netip.Addr) {
	for i := range peers {
		p := &peers[i]
		if !belongs(t, p.Namespace, p.Spec.Tunnel) {
			continue
		}
		for _, s := range slices.Concat(p.Spec.Addresses, p.Status.Addresses) {
			if a, err := netip.ParseAddr(s); err == nil {
				out = append(out, a)
			}
		}
	}
	return out
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func addressStrings(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
