package tenant

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// exposedPort is one port of an exposed Service and what is behind it.
type exposedPort struct {
	wire.ServiceID
	headless bool
	backends
}

// backends are the targets behind one port of a Service: the ready ones, and those that are going away but still serve.
type backends struct {
	ready, leaving targets
	stranger       bool // an endpoint is ready that is no member's
}

// targets are members, and pods without a sidecar.
type targets struct{ inside, outside []netip.AddrPort }

// inside are the members that members go to: where none is ready, those that still serve, as kube-proxy does, so that a rollout of a
// single replica refuses nobody.
func (b *backends) inside() []netip.AddrPort {
	if len(b.ready.inside) == 0 {
		return ascending(b.leaving.inside)
	}
	return ascending(b.ready.inside)
}

// all are the targets that a gateway goes to, by the same rule.
func (b *backends) all() (inside, outside []netip.AddrPort) {
	t := b.ready
	if len(t.inside)+len(t.outside) == 0 {
		t = b.leaving
	}
	return ascending(t.inside), ascending(t.outside)
}

// ascending is sorted; a pod is in the IPv4 and in the IPv6 slices of a dual-stack Service.
func ascending(list []netip.AddrPort) []netip.AddrPort {
	slices.SortFunc(list, netip.AddrPort.Compare)
	return clip(slices.Compact(list))
}

// exposed is every port of every exposed Service with what is behind it, and opens those members' ports. A Service that does not exist
// has no entry; one without a ready target has an entry without targets. Both are refused by the sidecar.
func (n *Network) exposed(s State, policy *policy) []exposedPort {
	exposed := exposedNames(s.Tunnel)
	slicesOf := make(map[string][]*discoveryv1.EndpointSlice)
	for i := range s.EndpointSlices {
		e := &s.EndpointSlices[i]
		if name := e.Labels[discoveryv1.LabelServiceName]; e.Namespace == s.Tunnel.Namespace && exposed[name] {
			slicesOf[name] = append(slicesOf[name], e)
		}
	}
	plain := n.plainPods(s)
	var out []exposedPort
	for i := range s.Services {
		svc := &s.Services[i]
		if svc.Namespace != s.Tunnel.Namespace || !exposed[svc.Name] || svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		exposed[svc.Name] = false // once, should it be listed twice
		seen := make(map[wire.ServiceID]bool, len(svc.Spec.Ports))
		for _, p := range svc.Spec.Ports {
			protocol, ok := protocolOf(p.Protocol)
			id := wire.ServiceID{Name: svc.Name, Port: uint16(p.Port), Protocol: wire.Protocol(protocol)}
			if !ok || !validPort(p.Port) || seen[id] {
				continue
			}
			seen[id] = true
			rules, everyone := policy.grants(id)
			open := func(m *member, port wire.Port) { m.open(port, rules, everyone) }
			out = append(out, exposedPort{id, svc.Spec.ClusterIP == corev1.ClusterIPNone, n.backends(slicesOf[svc.Name], p.Name, protocol, plain, open)})
		}
	}
	for _, m := range n.members {
		m.sortInbound()
	}
	return out
}

// carried is what members carry to other members by name.
func carried(exposed []exposedPort) []wire.Service {
	out := make([]wire.Service, 0, len(exposed))
	for i := range exposed {
		out = append(out, wire.Service{ServiceID: exposed[i].ServiceID, Targets: exposed[i].inside()})
	}
	return out
}

// backends are what is behind one port of a Service. Readiness decides who is dialled, never whose port is open: an endpoint that becomes
// ready must not wait for another configuration.
func (n *Network) backends(endpoints []*discoveryv1.EndpointSlice, port string, protocol v1alpha1.Protocol, plain plainPods, open func(*member, wire.Port)) (out backends) {
	for _, slice := range endpoints {
		number, ok := slicePort(slice, port, protocol)
		if !ok || slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			into := &targets{} // neither
			switch c := e.Conditions; {
			case !isTrue(c.Terminating, false) && isTrue(c.Ready, true):
				into = &out.ready
			case isTrue(c.Terminating, false) && isTrue(c.Serving, false):
				into = &out.leaving
			}
			m := n.behind(e)
			if m == nil {
				out.stranger = out.stranger || into == &out.ready
				into.outside = append(into.outside, plain.behind(e, number)...)
				continue
			}
			open(m, wire.Port{Port: number, Protocol: wire.Protocol(protocol)})
			if m.registered() {
				into.inside = append(into.inside, netip.AddrPortFrom(m.target(), number))
			}
		}
	}
	return out
}

// behind is the member that an endpoint is: the pod of that name and of that UID. Addresses prove nothing, another pod may have
// got them since.
func (n *Network) behind(e *discoveryv1.Endpoint) *member {
	ref := e.TargetRef
	if ref == nil || ref.Kind != "Pod" {
		return nil
	}
	if m := n.members[ref.Name]; m != nil && !m.gateway && ref.UID != "" && m.podUID == string(ref.UID) {
		return m
	}
	return nil
}

// slicePort is the number behind a Service's port of that name: named target ports differ from slice to slice.
func slicePort(slice *discoveryv1.EndpointSlice, name string, protocol v1alpha1.Protocol) (uint16, bool) {
	for _, p := range slice.Ports {
		var n string
		if p.Name != nil {
			n = *p.Name
		}
		own := corev1.ProtocolTCP
		if p.Protocol != nil {
			own = *p.Protocol
		}
		if carried, ok := protocolOf(own); ok && carried == protocol && n == name && p.Port != nil && validPort(*p.Port) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func isTrue(b *bool, absent bool) bool {
	if b == nil {
		return absent
	}
	return *b
}

// egress is every port of every egress host. A host that no accepted peer has a route to stays listed without a target, so that
// connections are refused at once instead of timing out.
func egress(t *v1alpha1.TenantTunnel, accepted []peer, l *wire.Lookups) []wire.Service {
	exposed := exposedNames(t)
	seen := make(map[wire.ServiceID]bool)
	var out []wire.Service
	for _, e := range t.Spec.Egress {
		at, ok := placeOf(e, accepted, l)
		if !ok || exposed[e.Host] {
			continue
		}
		for _, p := range e.Ports {
			protocol, ok := protocolOf(corev1.Protocol(p.Protocol))
			id := wire.ServiceID{Name: e.Host, Port: uint16(p.Port), Protocol: wire.Protocol(protocol)}
			if !ok || !validPort(p.Port) || seen[id] {
				continue
			}
			seen[id] = true
			s := wire.Service{ServiceID: id, Lookup: at.lookup}
			if at.addr.IsValid() {
				s.Targets = []netip.AddrPort{netip.AddrPortFrom(at.addr, id.Port)}
			}
			out = append(out, s)
		}
	}
	return out
}
