package tenant

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// What a gateway answers for at exposed Services' own addresses. Who is behind a Service is said by EndpointSlices, which tenants may
// write as they like, with the address of a node, the API server or another tenant's pod. So an endpoint is believed only as far as the
// Pod that it names bears it out: what the kubelet said of the pod's addresses.

// published are the exposed Services' ports at the addresses that the status says are theirs.
func published(exposed []exposedPort, addresses map[string][]netip.Addr) (out []wire.Published) {
	for i := range exposed {
		e := &exposed[i]
		if own := addresses[e.Name]; len(own) > 0 {
			p := wire.Published{ServiceID: e.ServiceID, Addresses: own}
			p.Inside, p.Outside = e.all()
			out = append(out, p)
		}
	}
	return out
}

// plainPods are the pods without a sidecar that a gateway may reach, by their names.
type plainPods map[string]plainPod

type plainPod struct {
	uid       types.UID
	addresses []netip.Addr
}

// plainPods are those of the tunnel's namespace that say so, run, and have addresses of their own: one on its node's network has the
// address of whoever else is there. Members of any tunnel are none, whatever they say: they are reached inside.
func (n *Network) plainPods(s State) plainPods {
	out := plainPods{}
	if s.Tunnel.Spec.Gateway == nil {
		return out
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		_, member := p.Labels[v1alpha1.LabelTunnel]
		if m := n.members[p.Name]; m != nil && m.podUID == string(p.UID) {
			member = true
		}
		if p.Namespace != s.Tunnel.Namespace || p.UID == "" || member || p.Labels[v1alpha1.LabelViaGateway] != v1alpha1.ViaGatewayEnabled ||
			p.Spec.HostNetwork || p.Status.Phase != corev1.PodRunning {
			continue
		}
		pod := plainPod{uid: p.UID}
		for _, ip := range p.Status.PodIPs {
			a, err := netip.ParseAddr(ip.IP)
			if a = a.Unmap(); err == nil && a.Zone() == "" && a.IsGlobalUnicast() {
				pod.addresses = append(pod.addresses, a)
			}
		}
		out[p.Name] = pod
	}
	return out
}

// behind are the addresses of an endpoint that are those of the pod that it names.
func (all plainPods) behind(e *discoveryv1.Endpoint, port uint16) (out []netip.AddrPort) {
	ref := e.TargetRef
	if ref == nil || ref.Kind != "Pod" || ref.UID == "" {
		return nil
	}
	pod, ok := all[ref.Name]
	if !ok || pod.uid != ref.UID {
		return nil
	}
	for _, text := range e.Addresses {
		if a, err := netip.ParseAddr(text); err == nil && slices.Contains(pod.addresses, a) {
			out = append(out, netip.AddrPortFrom(a, port))
		}
	}
	return out
}
