package tenant

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Mapped routes. Everything here but the gateway's own configuration knows them as what they are seen as: peer.routes has mapTo in place
// of the route, so what overlaps, what is routed and what members may reach are asked of that. The route itself holds nothing: others
// may have the same.

// parseMappings puts what is seen in place of a peer's routes.
func (p *peer) parseMappings(mappings []v1alpha1.RouteMapping) error {
	for _, m := range mappings {
		route, err := parseRoute(m.Route)
		i := slices.Index(p.routes, route)
		if err != nil || i < 0 || slices.ContainsFunc(p.mappings, func(e wire.Mapping) bool { return e.Real == route }) {
			return fmt.Errorf("spec.mappings: %q is not one of spec.routes, or mapped twice", bounded(m.Route))
		}
		seen, err := parseRoute(m.MapTo)
		if err != nil {
			return fmt.Errorf("spec.mappings: mapTo: %w", err)
		}
		x := wire.Mapping{Real: route, Seen: seen}
		if err := datapath.Mapping(x).Validate(); err != nil {
			return fmt.Errorf("spec.mappings: %w", err)
		}
		p.mappings = append(p.mappings, x)
	}
	plain := slices.Clone(p.routes)
	for _, m := range p.mappings {
		plain = slices.DeleteFunc(plain, func(r netip.Prefix) bool { return r == m.Real })
	}
	slices.SortFunc(p.mappings, func(a, b wire.Mapping) int { return a.Real.Compare(b.Real) })
	if err := datapath.CheckMappings(wire.Peer{Mappings: p.mappings}.Mapped(), plain); err != nil {
		return fmt.Errorf("spec.mappings: %w", err)
	}
	p.routes = plain
	for _, m := range p.mappings {
		p.routes = append(p.routes, m.Seen)
	}
	return nil
}

// mappable says what keeps a peer from having mappings in this tunnel, beside what others hold.
func (c *contest) mappable(p *peer) error {
	switch g := c.tunnel.Spec.Gateway; {
	case len(p.mappings) == 0:
		return nil
	case g == nil:
		return fmt.Errorf("spec.mappings: tunnel %s has no spec.gateway, and members do not rewrite addresses", c.tunnel.Name)
	case g.Datapath == v1alpha1.DatapathKernel:
		return fmt.Errorf("spec.mappings: tunnel %s says spec.gateway.datapath: Kernel, which does not rewrite addresses; Netstack, TUN and Auto do", c.tunnel.Name)
	}
	return nil
}

// ambiguous says which mapped route has one of the peer's own addresses in it: the gateway could not tell the peer from a host behind it.
func (p *peer) ambiguous() Decision {
	for _, m := range p.mappings {
		for _, a := range p.addresses {
			if m.Real.Contains(a) {
				return Decision{ReasonInvalid, fmt.Sprintf("spec.mappings: the route %s has the peer's own address %s in it", m.Real, a)}
			}
		}
	}
	return Decision{}
}

// named is how messages call a route of the peer.
func (p *peer) named(r netip.Prefix) string {
	for _, m := range p.mappings {
		if m.Seen == r {
			return fmt.Sprintf("spec.mappings: %s (for %s)", r, m.Real)
		}
	}
	return fmt.Sprintf("spec.routes: %s", r)
}
