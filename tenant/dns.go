package tenant

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// dnsPort is where a site's servers are asked.
const dnsPort = 53

// lookups is where a tunnel's members and gateways look names up; nil where spec.dns has nothing to say. A zone none of whose servers
// is behind an accepted peer stays listed without any: its names are not found, rather than being asked of somebody else.
func lookups(t *v1alpha1.TenantTunnel, accepted []peer) *wire.Lookups {
	if t.Spec.DNS == nil {
		return nil
	}
	var out wire.Lookups
	for _, z := range t.Spec.DNS.Zones {
		if !wire.IsDomain(z.Domain) || slices.ContainsFunc(out.Zones, func(o wire.DNSZone) bool { return o.Domain == z.Domain }) {
			continue
		}
		zone := wire.DNSZone{Domain: z.Domain}
		for _, s := range z.Servers {
			addr, ok := hostAddress(s)
			at := netip.AddrPortFrom(addr, dnsPort)
			if !ok || !routed(accepted, addr) || slices.Contains(zone.Servers, at) || len(zone.Servers) == wire.MaxDNSServers {
				continue
			}
			if around := mappingsAround(accepted, addr); len(zone.Servers) == 0 {
				zone.Mappings = around
			} else if !slices.Equal(zone.Mappings, around) {
				continue // at a site where the same answer means other hosts
			}
			zone.Servers = append(zone.Servers, at)
		}
		if out.Zones = append(out.Zones, zone); len(out.Zones) == wire.MaxDNSZones {
			break
		}
	}
	if len(out.Zones) == 0 {
		return nil
	}
	slices.SortFunc(out.Zones, func(a, b wire.DNSZone) int { return strings.Compare(a.Domain, b.Domain) })
	for _, p := range []netip.Prefix{IPv4Pool(t), IPv6Prefix(t)} {
		if p.IsValid() {
			out.Own = append(out.Own, p)
		}
	}
	return &out
}

// mappingsAround are those of the peer that an address, which is routed, is behind.
func mappingsAround(accepted []peer, addr netip.Addr) []wire.Mapping {
	i := slices.IndexFunc(accepted, func(p peer) bool { return routed([]peer{p}, addr) })
	return accepted[i].mappings
}

func mappingsOf(l *wire.Lookups, domain string) []wire.Mapping {
	if l != nil {
		for _, z := range l.Zones {
			if z.Domain == domain {
				return z.Mappings
			}
		}
	}
	return nil
}

// hostAddress reads the address of a host behind a peer.
func hostAddress(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Zone() == "" && !a.Is4In6() && a.IsGlobalUnicast()
}

// place is where an egress host is. The zero value is nowhere, where connections are refused.
type place struct {
	addr   netip.Addr // valid: here
	lookup bool       // it has a name alone
}

// placeOf says where a host is; false: what the entry says is nothing that could be carried.
func placeOf(e v1alpha1.EgressHost, accepted []peer, l *wire.Lookups) (place, bool) {
	if e.Host == "" || len(e.Host) > 253 {
		return place{}, false
	}
	if e.Address == "" {
		return place{lookup: l.Holds(e.Host)}, true
	}
	addr, ok := hostAddress(e.Address)
	if !ok || !routed(accepted, addr) {
		return place{}, ok
	}
	return place{addr: addr}, true
}

// unroutedServers are a tunnel's name servers that are not asked: no accepted peer has a route to them, or the same answer would mean other hosts.
func unroutedServers(t *v1alpha1.TenantTunnel, accepted []peer) (out []string) {
	if t.Spec.DNS == nil {
		return nil
	}
	asked := lookups(t, accepted)
	for _, z := range t.Spec.DNS.Zones {
		for _, s := range z.Servers {
			addr, ok := hostAddress(s)
			switch {
			case !ok || !routed(accepted, addr):
				out = append(out, fmt.Sprintf("%s (%s)", s, z.Domain))
			case !slices.Equal(mappingsAround(accepted, addr), mappingsOf(asked, z.Domain)):
				out = append(out, fmt.Sprintf("%s (%s; there is one, to a site that maps other ranges than that of the servers before it)", s, z.Domain))
			}
		}
	}
	return out
}

// unroutedHosts are a tunnel's egress hosts that lead nowhere, and those that have the name of an exposed Service, which keeps it.
func unroutedHosts(t *v1alpha1.TenantTunnel, accepted []peer) (unrouted, clashes []string) {
	exposed, l := exposedNames(t), lookups(t, accepted)
	for _, e := range t.Spec.Egress {
		if exposed[e.Host] {
			clashes = append(clashes, e.Host)
		} else if at, _ := placeOf(e, accepted, l); at == (place{}) {
			unrouted = append(unrouted, fmt.Sprintf("%s (%s)", e.Host, cmp.Or(e.Address, "no address, and in no zone of spec.dns")))
		}
	}
	return unrouted, clashes
}
