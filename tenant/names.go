package tenant

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Domain is where a tunnel's names are, inside it.
func Domain(t *v1alpha1.TenantTunnel) string { return t.Name + ".tunnel" }

// names are those of the exposed Services, with the Services' own addresses. One without a cluster IP is answered for as the cluster does,
// with the addresses of what is behind any of its ports, while that is members alone: whoever connects to these is not cut off when
// another gateway takes over.
func (n *Network) names(exposed []exposedPort, own map[string][]netip.Addr) []wire.Name {
	at := make(map[netip.Addr]*member, len(n.members))
	for _, m := range n.members {
		at[m.target()] = m
	}
	hosts, direct := map[string][]netip.Addr{}, map[string]bool{}
	for i := range exposed {
		e := &exposed[i]
		if _, seen := hosts[e.Name]; !seen {
			direct[e.Name] = e.headless
		}
		direct[e.Name] = direct[e.Name] && !e.stranger
		addresses := hosts[e.Name]
		for _, t := range e.inside() {
			if m := at[t.Addr()]; m != nil {
				for _, p := range m.addresses {
					addresses = append(addresses, p.Addr())
				}
			}
		}
		hosts[e.Name] = addresses
	}
	out := make([]wire.Name, 0, len(hosts))
	for host, addresses := range hosts {
		if !direct[host] {
			out = append(out, wire.Name{Name: host, Addresses: own[host]})
			continue
		}
		slices.SortFunc(addresses, netip.Addr.Compare)
		addresses = slices.Compact(addresses)
		six, _ := slices.BinarySearchFunc(addresses, netip.IPv6Unspecified(), netip.Addr.Compare)
		out = append(out, wire.Name{Name: host, Addresses: slices.Concat(sample(addresses[:six]), sample(addresses[six:]))})
	}
	slices.SortFunc(out, func(a, b wire.Name) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// sample is as many of one family as a name may have, the same ones each time: not the lowest, which would be the oldest members.
func sample(addresses []netip.Addr) []netip.Addr {
	const most = wire.MaxNameAddresses / 2
	if len(addresses) <= most {
		return addresses
	}
	digest := func(a netip.Addr) uint32 {
		h := fnv.New32a()
		_, _ = h.Write(a.AsSlice())
		return h.Sum32()
	}
	addresses = slices.SortedFunc(slices.Values(addresses), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(digest(a), digest(b)), a.Compare(b))
	})[:most]
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses
}
