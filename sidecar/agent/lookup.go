package agent

import (
	"context"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/resolve"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// lookedUp is a port of a host that is known by name alone, as the relay asks for it.
type lookedUp struct {
	names *resolve.Resolver
	name  string
	port  uint16
}

var _ relay.Finder = lookedUp{}

// Find looks the name up, through the tunnel.
func (h lookedUp) Find(ctx context.Context) ([]netip.AddrPort, error) {
	addrs, err := h.names.Lookup(ctx, h.name)
	return h.at(addrs), err
}

// Known is what is kept of it.
func (h lookedUp) Known() ([]netip.AddrPort, bool) {
	addrs, ok := h.names.Known(h.name)
	return h.at(addrs), ok
}

func (h lookedUp) at(addrs []netip.Addr) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a, h.port))
	}
	return out
}

// findHost finds a name that is in a zone; nil: it is in none, and nobody is asked.
func (p *plane) findHost(name string, port uint16) relay.Finder {
	if !p.resolver.Holds(name) {
		return nil
	}
	return lookedUp{p.resolver, name, port}
}

// finder is who finds a port that is carried; nil: its targets are known.
func (m *member) finder(id wire.ServiceID, lookup bool) relay.Finder {
	if !lookup {
		return nil
	}
	return lookedUp{m.plane.resolver, id.Name, id.Port}
}

// lookups says where names are looked up, and to what they may lead: outside peers, and never to the tunnel's own addresses, though a
// gateway's peer has some of these.
func lookups(c wire.Config) resolve.Config {
	if c.Lookups == nil {
		return resolve.Config{}
	}
	out := resolve.Config{Zones: c.Lookups.Zones, Except: slices.Concat(c.Lookups.Own, c.Interface.Addresses)}
	for _, a := range c.Interface.Addresses {
		out.IPv4, out.IPv6 = out.IPv4 || a.Addr().Is4(), out.IPv6 || a.Addr().Is6()
	}
	for _, p := range c.Peers {
		if p.Outside {
			out.Within = append(out.Within, p.Ranges()...)
		}
	}
	return out
}
