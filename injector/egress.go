package injector

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// EgressServices are the Services of a tunnel's egress hosts, by which pods without a sidecar reach them: to the active gateway pod, on
// the ports that the status says. A port that it says nothing of yet is left out.
func EgressServices(t *v1alpha1.TenantTunnel) []*corev1.Service {
	given := tenant.EgressGiven(t)
	var out []*corev1.Service
	for _, e := range t.Spec.Egress {
		var ports []corev1.ServicePort
		for _, p := range e.Ports {
			p.Protocol = cmp.Or(p.Protocol, v1alpha1.TCP)
			at, ok := given[tenant.EgressKey{Host: e.Host, Port: p}]
			if !ok {
				continue
			}
			ports = append(ports, corev1.ServicePort{Name: fmt.Sprintf("%s-%d", strings.ToLower(string(p.Protocol)), p.Port),
				Protocol: corev1.Protocol(p.Protocol), Port: p.Port, TargetPort: intstr.FromInt32(at)})
		}
		if len(ports) == 0 {
			continue
		}
		g := gateway{tunnel: t, name: e.Service}
		meta := g.meta()
		meta.Labels[v1alpha1.LabelEgress] = v1alpha1.EgressEnabled
		out = append(out, &corev1.Service{TypeMeta: kind("v1", "Service"), ObjectMeta: meta, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: g.labels(), Ports: ports}})
	}
	return out
}

// egressRule lets the namespace's pods to the ports that egress Services lead to, and to no others; nil where there are none.
func (g *gateway) egressRule() []networkingv1.NetworkPolicyIngressRule {
	var ports []networkingv1.NetworkPolicyPort
	for k, at := range tenant.EgressGiven(g.tunnel) {
		ports = append(ports, networkingv1.NetworkPolicyPort{Protocol: ptr.To(corev1.Protocol(k.Protocol)), Port: ptr.To(intstr.FromInt32(at))})
	}
	if len(ports) == 0 {
		return nil
	}
	slices.SortFunc(ports, func(a, b networkingv1.NetworkPolicyPort) int { return a.Port.IntValue() - b.Port.IntValue() })
	return []networkingv1.NetworkPolicyIngressRule{{Ports: ports, From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}}
}

// goesViaGateway says whether a pod that is let through without a sidecar gets the label by which it may use egress Services and be
// reached through the gateway: where its namespace has one, and the pod says nothing of it and has an address of its own.
func goesViaGateway(c *candidate, r Reason) bool {
	_, said := c.Pod.Labels[v1alpha1.LabelViaGateway]
	if said || c.Pod.Spec.HostNetwork || r != OptedOut && r != NotSelected {
		return false
	}
	for i := range c.Tunnels {
		if t := &c.Tunnels[i]; t.DeletionTimestamp.IsZero() && t.Spec.Gateway != nil {
			return true
		}
	}
	return false
}

// PatchViaGateway is the JSON patch that gives a pod this label, and changes nothing else.
func PatchViaGateway(raw []byte) ([]byte, error) {
	doc, err := decodePod(raw)
	if err != nil {
		return nil, err
	}
	p := &patcher{doc: doc}
	if err := p.setLabel(v1alpha1.LabelViaGateway, v1alpha1.ViaGatewayEnabled); err != nil {
		return nil, fmt.Errorf("patch pod: %w", err)
	}
	return p.marshal()
}

// viaGatewayReads refuses a value that would be ignored silently.
func viaGatewayReads(c *candidate) finding {
	switch v, ok := c.Pod.Labels[v1alpha1.LabelViaGateway]; {
	case !ok, v == v1alpha1.ViaGatewayEnabled, v == v1alpha1.ViaGatewayDisabled:
		return finding{}
	default:
		return finding{MalformedAnnotation, fmt.Sprintf("metadata.labels[%s]: %q is neither %q nor %q",
			v1alpha1.LabelViaGateway, bounded(v), v1alpha1.ViaGatewayEnabled, v1alpha1.ViaGatewayDisabled)}
	}
}
