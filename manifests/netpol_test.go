package manifests_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// end is one end of a flow.
type end struct {
	namespace string
	labels    map[string]string
}

// flow is what is sent to a port.
type flow struct {
	from, to end
	protocol corev1.Protocol
	port     int32
}

// The NetworkPolicies of the example let through what members send, and nothing else. No CNI is asked: these are Kubernetes' rules for them,
// as far as the example uses them.
func TestNetworkPolicyExample(t *testing.T) {
	var policies []networkingv1.NetworkPolicy
	docs := documents(t, "examples/networkpolicy.yaml")
	for id := range docs {
		if strings.HasPrefix(id, "NetworkPolicy/") {
			policies = append(policies, decode[networkingv1.NetworkPolicy](t, docs, id))
		}
	}
	if len(policies) < 3 {
		t.Fatalf("%d NetworkPolicies", len(policies))
	}
	home := policies[0].Namespace
	member := end{home, map[string]string{"app": "client", v1alpha1.LabelTunnel: "main"}}
	server := end{home, map[string]string{"app": "web", v1alpha1.LabelTunnel: "main"}}
	gateway := end{home, map[string]string{v1alpha1.LabelTunnel: "main", v1alpha1.LabelRole: v1alpha1.LabelRoleGateway}}
	outside := end{home, map[string]string{"app": "client"}}
	operator := end{namespace, map[string]string{"app.kubernetes.io/name": "tenantwire-operator"}}
	dns, prometheus, stranger := end{"kube-system", nil}, end{"monitoring", nil}, end{"default", map[string]string{v1alpha1.LabelTunnel: "main"}}
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	for name, c := range map[string]struct {
		flow
		want bool
	}{
		"the tunnel":                  {flow{member, server, udp, injector.ListenPort}, true},
		"a gateway":                   {flow{gateway, member, udp, injector.ListenPort}, true},
		"the coordinator":             {flow{member, operator, tcp, 9444}, true},
		"names":                       {flow{member, dns, udp, 53}, true},
		"metrics":                     {flow{prometheus, server, tcp, injector.HealthPort}, true},
		"a server in plaintext":       {flow{member, server, tcp, 8080}, false},
		"a server from elsewhere":     {flow{stranger, server, tcp, 8080}, false},
		"the tunnel from elsewhere":   {flow{stranger, server, udp, injector.ListenPort}, false},
		"the tunnel from a plain pod": {flow{outside, server, udp, injector.ListenPort}, false},
		"a plain pod's own way":       {flow{outside, stranger, tcp, 443}, false},
		"the operator's metrics":      {flow{member, operator, tcp, 8080}, false},
		"metrics from a member":       {flow{member, server, tcp, injector.HealthPort}, false},
	} {
		if got := passes(t, policies, c.flow); got != c.want {
			t.Errorf("%s: let through %t, want %t", name, got, c.want)
		}
	}
}

// passes says whether a flow is let through at both ends: where policies select an end, one of them has to.
func passes(t *testing.T, policies []networkingv1.NetworkPolicy, f flow) bool {
	t.Helper()
	bound := map[networkingv1.PolicyType]bool{}
	let := map[networkingv1.PolicyType]bool{}
	for _, p := range policies {
		for _, kind := range p.Spec.PolicyTypes {
			self, other := f.to, f.from
			if kind == networkingv1.PolicyTypeEgress {
				self, other = f.from, f.to
			}
			if self.namespace != p.Namespace || !selects(t, &p.Spec.PodSelector, self.labels) {
				continue
			}
			bound[kind] = true
			let[kind] = let[kind] || ruled(t, &p, kind, other, f)
		}
	}
	return (!bound[networkingv1.PolicyTypeIngress] || let[networkingv1.PolicyTypeIngress]) &&
		(!bound[networkingv1.PolicyTypeEgress] || let[networkingv1.PolicyTypeEgress])
}

func ruled(t *testing.T, p *networkingv1.NetworkPolicy, kind networkingv1.PolicyType, other end, f flow) bool {
	t.Helper()
	if kind == networkingv1.PolicyTypeEgress {
		return slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return names(t, p, r.To, r.Ports, other, f) })
	}
	return slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return names(t, p, r.From, r.Ports, other, f) })
}

// names says whether a rule has the other end and the port. Rules of the example always say both.
func names(t *testing.T, p *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, other end, f flow) bool {
	t.Helper()
	return slices.ContainsFunc(ports, func(port networkingv1.NetworkPolicyPort) bool {
		return port.Protocol != nil && *port.Protocol == f.protocol && port.Port != nil && port.Port.IntVal == f.port && port.EndPort == nil
	}) && slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			t.Fatalf("NetworkPolicy %s has an ipBlock, which is not looked at here", p.Name)
		}
		there := other.namespace == p.Namespace
		if peer.NamespaceSelector != nil {
			there = selects(t, peer.NamespaceSelector, map[string]string{corev1.LabelMetadataName: other.namespace})
		}
		return there && (peer.PodSelector == nil || selects(t, peer.PodSelector, other.labels))
	})
}

func selects(t *testing.T, s *metav1.LabelSelector, of map[string]string) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(labels.Set(of))
}
