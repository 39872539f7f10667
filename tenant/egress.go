package tenant

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The ports of a gateway's pods that lead to egress hosts: as many as spec.egress can list. The schema of TenantTunnel says the same.
const (
	FirstEgressPort = 20000
	LastEgressPort  = 22047
)

// The label that tells what the operator made from a tenant's own of the same name.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "tenantwire"
)

// EgressKey is one port of one egress host.
type EgressKey struct {
	Host string
	v1alpha1.Port
}

// servedEgress is every port that a Service is to lead to, in the order of the spec.
func servedEgress(t *v1alpha1.TenantTunnel) (out []EgressKey) {
	if t.Spec.Gateway == nil {
		return nil
	}
	seen := map[EgressKey]bool{}
	for _, e := range t.Spec.Egress {
		for _, p := range e.Ports {
			protocol, ok := protocolOf(corev1.Protocol(p.Protocol))
			k := EgressKey{e.Host, v1alpha1.Port{Port: p.Port, Protocol: protocol}}
			if e.Service == "" || !ok || !validPort(p.Port) || seen[k] {
				continue
			}
			seen[k] = true
			out = append(out, k)
		}
	}
	return out
}

// EgressGiven is what the status says of the ports that are to be served: these are where Services may lead. Of two that have one
// port of the gateway the first keeps it.
func EgressGiven(t *v1alpha1.TenantTunnel) map[EgressKey]int32 {
	served := map[EgressKey]bool{}
	for _, k := range servedEgress(t) {
		served[k] = true
	}
	given, taken := map[EgressKey]int32{}, map[int32]bool{}
	if t.Status.Gateway == nil {
		return given
	}
	for _, e := range t.Status.Gateway.Egress {
		k := EgressKey{e.Host, v1alpha1.Port{Port: e.Port.Port, Protocol: cmp.Or(e.Protocol, v1alpha1.TCP)}}
		if _, twice := given[k]; twice || !served[k] || taken[e.GatewayPort] || e.GatewayPort < FirstEgressPort || e.GatewayPort > LastEgressPort {
			continue
		}
		given[k], taken[e.GatewayPort] = e.GatewayPort, true
	}
	return given
}

// EgressPorts is what the status should say: what it says already stays. What is new gets the first free port after a digest of itself,
// and one that was another's until now comes last: who is still at the old one, for his node or the gateway has not heard, must not find
// himself at the new one.
func EgressPorts(t *v1alpha1.TenantTunnel) []v1alpha1.EgressPort {
	given := EgressGiven(t)
	taken, leaving := map[int32]bool{}, map[int32]bool{}
	for _, p := range given {
		taken[p] = true
	}
	if t.Status.Gateway != nil {
		for _, e := range t.Status.Gateway.Egress {
			leaving[e.GatewayPort] = true
		}
	}
	var out []v1alpha1.EgressPort
	for _, k := range servedEgress(t) {
		port, ok := given[k]
		if !ok {
			if port, ok = k.free(taken, leaving); !ok {
				if port, ok = k.free(taken, nil); !ok {
					break // unreachable: there are as many as a spec can list
				}
			}
			taken[port] = true
		}
		out = append(out, v1alpha1.EgressPort{Host: k.Host, Port: k.Port, GatewayPort: port})
	}
	slices.SortFunc(out, func(a, b v1alpha1.EgressPort) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), cmp.Compare(a.Port.Port, b.Port.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

func (k EgressKey) free(taken, leaving map[int32]bool) (int32, bool) {
	const all = LastEgressPort - FirstEgressPort + 1
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, k.Host, " ", k.Port.Port, k.Protocol)
	for i := range uint32(all) {
		if p := FirstEgressPort + int32((h.Sum32()%all+i)%all); !taken[p] && !leaving[p] {
			return p, true
		}
	}
	return 0, false
}

// OwnsEgressService says whether a Service is one that was made for the tunnel's egress.
func OwnsEgressService(t *v1alpha1.TenantTunnel, s *corev1.Service) bool {
	return s.Labels[LabelManagedBy] == ManagedBy && s.Labels[v1alpha1.LabelEgress] == v1alpha1.EgressEnabled && metav1.IsControlledBy(s, t)
}

// ServesEgress says whether pods without a sidecar may use the tunnel.
func ServesEgress(t *v1alpha1.TenantTunnel) bool { return len(servedEgress(t)) > 0 }

// ServesPlainPods says whether a tunnel's configuration depends on pods without a sidecar: they use its egress, or may be behind what it
// exposes.
func ServesPlainPods(t *v1alpha1.TenantTunnel) bool {
	return ServesEgress(t) || t.Spec.Gateway != nil && len(t.Spec.Expose) > 0
}

// withServices adds to a verdict on a tunnel which Services of its egress are somebody else's.
func withServices(d Decision, t *v1alpha1.TenantTunnel, services []corev1.Service) Decision {
	wanted := map[string]bool{}
	for _, e := range t.Spec.Egress {
		wanted[e.Service] = e.Service != "" && t.Spec.Gateway != nil
	}
	var taken []string
	for i := range services {
		if s := &services[i]; s.Namespace == t.Namespace && wanted[s.Name] && !OwnsEgressService(t, s) {
			taken = append(taken, s.Name)
		}
	}
	if len(taken) == 0 {
		return d
	}
	slices.Sort(taken)
	message := "spec.egress: there is a Service of this name already that is not the tunnel's, and it is left alone: " + list(taken)
	if d.Reason != ReasonAccepted {
		message = d.Message + "; " + message
	}
	return Decision{ReasonServiceTaken, message}
}

// egressRelays is what a gateway carries for pods without a sidecar. A host that no accepted peer has a route to stays listed without a
// target, so that connections are refused at once.
func egressRelays(t *v1alpha1.TenantTunnel, accepted []peer, l *wire.Lookups) (out []wire.Relay) {
	places := make(map[string]place, len(t.Spec.Egress)) // of what is valid
	for _, e := range t.Spec.Egress {
		if at, ok := placeOf(e, accepted, l); ok {
			places[e.Host] = at
		}
	}
	for k, listen := range EgressGiven(t) {
		at, ok := places[k.Host]
		if !ok {
			continue
		}
		r := wire.Relay{Listen: uint16(listen), ServiceID: wire.ServiceID{Name: k.Host, Port: uint16(k.Port.Port), Protocol: wire.Protocol(k.Protocol)}, Lookup: at.lookup}
		if at.addr.IsValid() {
			r.Target = netip.AddrPortFrom(at.addr, r.Port)
		}
		out = append(out, r)
	}
	return out
}

// egressClients are the addresses of the pods that may use the gateway: those of its namespace that say so, and the tunnel's members.
// A pod on its node's network has the address of whoever else is there, and is left out.
func (n *Network) egressClients(s State) []netip.Addr {
	var out []netip.Addr
	add := func(a netip.Addr) {
		if a = a.Unmap(); a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() {
			out = append(out, a)
		}
	}
	for _, m := range n.members {
		if m.registered() && !m.gateway {
			add(m.endpoint.Addr())
		}
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		if p.Namespace != s.Tunnel.Namespace || p.Labels[v1alpha1.LabelViaGateway] != v1alpha1.ViaGatewayEnabled || p.Spec.HostNetwork ||
			p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); err == nil {
				add(a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return clip(slices.Compact(out))
}
