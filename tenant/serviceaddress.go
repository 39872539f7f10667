package tenant

import (
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Exposed Services' own addresses inside a tunnel with a gateway. They are given out once and kept in the tunnel's status, which
// everybody goes by: what it says is held by a Service unless a member has it, or a peer was given it before. Who is given an address
// leaves out what the others hold; should two controllers meet all the same, members keep theirs first, then peers, whose addresses are
// in files somewhere. A Service's are asked for by name.

// ServiceAddresses are those of the exposed Services that the status says and that are theirs, IPv4 first.
func ServiceAddresses(t *v1alpha1.TenantTunnel, members []v1alpha1.TunnelMember, peers []v1alpha1.TunnelPeer) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	if t.Spec.Gateway == nil || len(t.Status.Services) == 0 {
		return out
	}
	exposed, taken := exposedNames(t), heldBefore(t, members, peers)
	ranges := [2]netip.Prefix{IPv4Pool(t), IPv6Prefix(t)}
	for _, s := range t.Status.Services {
		if _, twice := out[s.Service]; twice || !exposed[s.Service] {
			continue
		}
		var own []netip.Addr
		for _, text := range s.Addresses {
			a, err := netip.ParseAddr(text)
			if err != nil || taken[a] || !slices.ContainsFunc(ranges[:], func(r netip.Prefix) bool { return isHost(r, a) }) || chosen(a) ||
				slices.ContainsFunc(own, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
				continue
			}
			own, taken[a] = append(own, a), true
		}
		slices.SortFunc(own, netip.Addr.Compare)
		out[s.Service] = own
	}
	return out
}

// chosen says whether an address is one of those that are never given out.
func chosen(a netip.Addr) bool { return a.Is6() && interfaceID(a) < firstMemberID }

// heldBefore is what others than Services have by right: the gateway, members, and peers that were given it.
func heldBefore(t *v1alpha1.TenantTunnel, members []v1alpha1.TunnelMember, peers []v1alpha1.TunnelPeer) map[netip.Addr]bool {
	taken := map[netip.Addr]bool{}
	hold := func(addresses []string) {
		for _, s := range addresses {
			if a, err := netip.ParseAddr(s); err == nil {
				taken[a] = true
			}
		}
	}
	for _, a := range reserved(t) {
		taken[a] = true
	}
	for i := range members {
		if m := &members[i]; belongs(t, m.Namespace, m.Spec.Tunnel) {
			hold(m.Spec.Addresses)
		}
	}
	for i := range peers {
		if p := &peers[i]; belongs(t, p.Namespace, p.Spec.Tunnel) {
			hold(p.Status.Addresses)
		}
	}
	return taken
}

// GiveServiceAddresses is what the status should say: what it says already and may stay, and what is given to those that lack it. without
// are the Services that get no IPv4 address, as the pool is full. The result is sorted by Service.
func GiveServiceAddresses(t *v1alpha1.TenantTunnel, members []v1alpha1.TunnelMember, peers []v1alpha1.TunnelPeer) (out []v1alpha1.ServiceAddresses, without []string) {
	if t.Spec.Gateway == nil {
		return nil, nil
	}
	given, taken := ServiceAddresses(t, members, peers), heldBefore(t, members, peers)
	for _, a := range peerAddresses(t, peers) {
		taken[a] = true
	}
	for _, own := range given {
		for _, a := range own {
			taken[a] = true
		}
	}
	leaving := map[netip.Addr]bool{}
	for _, s := range t.Status.Services {
		for _, text := range s.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				leaving[a] = true
			}
		}
	}
	pool, prefix := IPv4Pool(t), IPv6Prefix(t)
	for _, name := range slices.Sorted(maps.Keys(exposedNames(t))) {
		own := given[name]
		has := func(v4 bool) bool { return slices.ContainsFunc(own, func(a netip.Addr) bool { return a.Is4() == v4 }) }
		if pool.IsValid() && !has(true) {
			if a, ok := serviceIPv4(pool, name, taken, leaving); ok {
				own, taken[a] = append(own, a), true
			} else {
				without = append(without, name)
			}
		}
		if prefix.IsValid() && !has(false) {
			a := digestIPv6(prefix, "tenantwire.dev/service/"+string(t.UID)+"/"+name+"/", func(a netip.Addr) bool { return taken[a] })
			own, taken[a] = append(own, a), true
		}
		slices.SortFunc(own, netip.Addr.Compare)
		out = append(out, v1alpha1.ServiceAddresses{Service: name, Addresses: addressStrings(own)})
	}
	return out, without
}

// serviceIPv4 is a free address of a pool: the first one downwards from a digest of the name in its last quarter, else from the pool's
// end. So one that is freed is hardly ever the next Service's, whom somebody could take for the one before; one that was another's until
// now comes last.
func serviceIPv4(pool netip.Prefix, name string, taken, leaving map[netip.Addr]bool) (netip.Addr, bool) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	begin := broadcast(pool).Prev()
	for range h.Sum32() % uint32(min(1<<(30-pool.Bits()), 1<<12)) {
		begin = begin.Prev()
	}
	for _, avoid := range []map[netip.Addr]bool{leaving, nil} {
		free := func(a netip.Addr) bool { return !taken[a] && !avoid[a] }
		for a := begin; pool.Addr().Less(a); a = a.Prev() {
			if free(a) {
				return a, true
			}
		}
		if a, ok := lastIPv4(pool, func(a netip.Addr) bool { return !free(a) }); ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// services plans the Services' addresses, beside those that members are about to have.
func (p *Plan) services(in Inputs, kept []v1alpha1.TunnelMember) {
	members := slices.Clone(kept)
	for _, d := range p.Apply {
		m := v1alpha1.TunnelMember{Spec: v1alpha1.TunnelMemberSpec{Tunnel: d.Tunnel, Addresses: d.Addresses}}
		m.Namespace = in.Tunnel.Namespace
		members = append(members, m)
	}
	var without []string
	if p.Status.Services, without = GiveServiceAddresses(in.Tunnel, members, in.Peers); len(without) == 0 {
		return
	}
	message := fmt.Sprintf("spec.expose: all of spec.addressing.ipv4Pool %s are in use; without an IPv4 address: %s", IPv4Pool(in.Tunnel), list(without))
	if d := p.Status.Accepted; d.Reason != ReasonAccepted {
		message = d.Message + "; " + message
	}
	p.Status.Accepted = Decision{ReasonServiceWithoutIPv4, message}
}
