package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// coordinatorPort is that of the operator's pods: policies count where a packet arrives.
const coordinatorPort = 9444

var networkChecks = []Check{
	{"PolicyBlocksTunnel", Error, "NetworkPolicies let members of a tunnel send UDP 51820 to each other", []source{srcPods, srcPolicies, srcNamespaces}, policyBlocksTunnel},
	{"PolicyBlocksCoordinator", Error, "they let members reach the coordinator", []source{srcPods, srcPolicies}, policyBlocksCoordinator},
	{"RouteCoversCluster", Warning, "no peer's route holds addresses of the cluster, where members have a real interface", []source{srcTunnels, srcPeers, srcMembers, srcServices, srcPods}, routeCoversCluster},
}

// side is one end of a packet as a NetworkPolicy sees it.
type side struct {
	namespace       string
	podLabels       map[string]string
	namespaceLabels map[string]string
	addr            netip.Addr // invalid: unknown, any ipBlock may hold it
}

func (f *Facts) sideOf(p *corev1.Pod) side {
	s := side{namespace: p.Namespace, podLabels: p.Labels, namespaceLabels: map[string]string{corev1.LabelMetadataName: p.Namespace}}
	if n := f.namespace(p.Namespace); n != nil {
		s.namespaceLabels = n.Labels
	}
	s.addr, _ = netip.ParseAddr(p.Status.PodIP)
	return s
}

// selects says whether a selector picks labels. One that does not parse picks nothing.
func selects(s *metav1.LabelSelector, of map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(of))
}

// allows says whether the policies about a pod let it have traffic with another in one direction; those that restrict it are named.
func allows(policies []networkingv1.NetworkPolicy, pod *corev1.Pod, direction networkingv1.PolicyType, other side, protocol corev1.Protocol, port int32) (ok bool, by []string) {
	for i := range policies {
		p := &policies[i]
		if p.Namespace != pod.Namespace || !selects(&p.Spec.PodSelector, pod.Labels) || !concerns(p, direction) {
			continue
		}
		by = append(by, p.Name)
		if direction == networkingv1.PolicyTypeIngress {
			ok = ok || slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool {
				return portAllowed(r.Ports, protocol, port) && peerAllowed(r.From, p.Namespace, other)
			})
			continue
		}
		ok = ok || slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
			return portAllowed(r.Ports, protocol, port) && peerAllowed(r.To, p.Namespace, other)
		})
	}
	return ok || len(by) == 0, by
}

func concerns(p *networkingv1.NetworkPolicy, direction networkingv1.PolicyType) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return direction == networkingv1.PolicyTypeIngress || len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, direction)
}

// portAllowed takes a named port for ours: which one that is would take the other pod's containers.
func portAllowed(all []networkingv1.NetworkPolicyPort, protocol corev1.Protocol, port int32) bool {
	return len(all) == 0 || slices.ContainsFunc(all, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol != nil && *p.Protocol != protocol || p.Protocol == nil && protocol != corev1.ProtocolTCP {
			return false
		}
		switch {
		case p.Port == nil || p.Port.StrVal != "":
			return true
		case p.EndPort != nil:
			return port >= p.Port.IntVal && port <= *p.EndPort
		}
		return p.Port.IntVal == port
	})
}

func peerAllowed(all []networkingv1.NetworkPolicyPeer, home string, other side) bool {
	return len(all) == 0 || slices.ContainsFunc(all, func(p networkingv1.NetworkPolicyPeer) bool {
		switch {
		case p.IPBlock != nil:
			return inBlock(p.IPBlock, other.addr)
		case p.NamespaceSelector != nil:
			return selects(p.NamespaceSelector, other.namespaceLabels) && (p.PodSelector == nil || selects(p.PodSelector, other.podLabels))
		}
		return other.namespace == home && p.PodSelector != nil && selects(p.PodSelector, other.podLabels)
	})
}

func inBlock(b *networkingv1.IPBlock, a netip.Addr) bool {
	within := func(s string) bool {
		p, err := netip.ParsePrefix(s)
		return err == nil && p.Contains(a)
	}
	return !a.IsValid() || within(b.CIDR) && !slices.ContainsFunc(b.Except, within)
}

// inTunnels are the pods that have a device, by namespace and tunnel.
func (f *Facts) inTunnels() map[PodID][]*corev1.Pod {
	out := map[PodID][]*corev1.Pod{}
	for i := range f.Pods {
		p := &f.Pods[i]
		if t := p.Labels[v1alpha1.LabelTunnel]; t != "" && alive(p) && (sidecarOf(p) != nil || isGatewayPod(p)) {
			id := PodID{p.Namespace, t}
			out[id] = append(out[id], p)
		}
	}
	return out
}

func policyBlocksTunnel(f *Facts) (out []Finding) {
	for _, pods := range f.inTunnels() {
		for _, p := range pods {
			for _, direction := range []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress} {
				if found := f.blocked(p, pods, direction); found != nil {
					out = append(out, *found)
				}
			}
		}
	}
	return out
}

// blocked says from or to which other pods of its tunnel a pod's encrypted packets may not go.
func (f *Facts) blocked(p *corev1.Pod, others []*corev1.Pod, direction networkingv1.PolicyType) *Finding {
	var names, policies []string
	for _, q := range others {
		if q == p {
			continue
		}
		if ok, by := allows(f.Policies, p, direction, f.sideOf(q), corev1.ProtocolUDP, injector.ListenPort); !ok {
			names, policies = append(names, q.Name), by
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	word, field := "come from", "ingress"
	if direction == networkingv1.PolicyTypeEgress {
		word, field = "go to", "egress"
	}
	return &Finding{Object: podName(p), What: fmt.Sprintf("the pod's encrypted packets may not %s %s", word, few(names)),
		Evidence: fmt.Sprintf("networkpolicy %s: no rule of %s lets UDP %d through", few(policies), field, injector.ListenPort),
		Fix:      fmt.Sprintf(`kubectl -n %s edit networkpolicy %s: add to %s {"ports":[{"protocol":"UDP","port":%d}]}`, p.Namespace, policies[0], field, injector.ListenPort)}
}

func policyBlocksCoordinator(f *Facts) (out []Finding) {
	coordinator := side{namespace: f.System, podLabels: map[string]string{"app.kubernetes.io/name": operatorName, "app.kubernetes.io/part-of": "tenantwire"},
		namespaceLabels: map[string]string{corev1.LabelMetadataName: f.System, "app.kubernetes.io/part-of": "tenantwire"}}
	for _, pods := range f.inTunnels() {
		for _, p := range pods {
			ok, by := allows(f.Policies, p, networkingv1.PolicyTypeEgress, coordinator, corev1.ProtocolTCP, coordinatorPort)
			if ok {
				continue
			}
			out = append(out, Finding{Object: podName(p), What: "the pod may not reach the coordinator: it hears of no changes, and does not start again",
				Evidence: fmt.Sprintf("networkpolicy %s: no rule of egress lets TCP %d to namespace %s through", few(by), coordinatorPort, f.System),
				Fix: fmt.Sprintf(`kubectl -n %s edit networkpolicy %s: add to egress {"to":[{"namespaceSelector":{"matchLabels":{"%s":"%s"}}}],"ports":[{"protocol":"TCP","port":%d}]}`,
					p.Namespace, by[0], corev1.LabelMetadataName, f.System, coordinatorPort)})
		}
	}
	return out
}

// clusterAddresses are some that a pod of the namespace may need to reach outside the tunnel.
func (f *Facts) clusterAddresses(namespace string) map[string]string {
	out := map[string]string{}
	for i := range f.Services {
		if s := &f.Services[i]; s.Namespace == namespace && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone {
			out[s.Spec.ClusterIP] = "service " + s.Name
		}
	}
	for i := range f.Pods {
		if p := &f.Pods[i]; p.Namespace == namespace && p.Status.PodIP != "" && alive(p) {
			out[p.Status.PodIP] = "pod " + p.Name
		}
	}
	for i := range f.Nodes {
		for _, a := range f.Nodes[i].Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				out[a.Address] = "node " + f.Nodes[i].Name
			}
		}
	}
	return out
}

// routeCoversCluster looks where members have routes of the kernel's: with Netstack nothing outside the tunnel follows them.
func routeCoversCluster(f *Facts) (out []Finding) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		routed := slices.ContainsFunc(f.Members, func(m v1alpha1.TunnelMember) bool {
			return m.Namespace == t.Namespace && m.Spec.Tunnel == t.Name && (m.Status.Datapath == v1alpha1.DatapathTUN || m.Status.Datapath == v1alpha1.DatapathKernel)
		})
		if !routed {
			continue
		}
		used := f.clusterAddresses(t.Namespace)
		for j := range f.Peers {
			p := &f.Peers[j]
			if p.Namespace != t.Namespace || p.Spec.Tunnel != t.Name || f.decisions(t)[p.Name].Reason != tenant.ReasonAccepted {
				continue
			}
			if route, whose := covers(p.Spec.Routes, used); route != "" {
				out = append(out, Finding{Object: peerName(p), What: "a route of the peer holds addresses of the cluster: members with a real interface reach these through the tunnel alone",
					Evidence: fmt.Sprintf("%s holds %s", route, whose), Fix: "narrow the route, map it (spec.mappings), or say datapath: Netstack"})
			}
		}
	}
	return out
}

func covers(routes []string, used map[string]string) (route, whose string) {
	for _, r := range routes {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			continue
		}
		var all []string
		for text, name := range used {
			if a, err := netip.ParseAddr(text); err == nil && p.Contains(a) {
				all = append(all, text+" of "+name)
			}
		}
		if len(all) > 0 {
			slices.Sort(all)
			return r, few(all)
		}
	}
	return "", ""
}
