package cli

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// clusterPlants are faults, each by the check that names it.
var clusterPlants = []struct {
	check string
	plant func(w *ward) (undo func())
}{
	{"CertificateExpired", certified(-2*time.Hour, -time.Hour, true)},
	{"CertificateNotYetValid", certified(time.Hour, 2*time.Hour, true)},
	{"CertificateExpiresSoon", certified(-time.Hour, time.Hour, true)},
	{"CertificateName", certified(-time.Hour, 9000*time.Hour, false)},
	{"CertificateMissing", func(w *ward) func() {
		return change(w, system, "tenantwire-serving-cert", &corev1.Secret{}, false, func(s *corev1.Secret) { s.Data = nil })
	}},
	{"WebhookCAMismatch", func(w *ward) func() {
		_, other := serving(w.T, time.Now(), time.Now().Add(time.Hour), true)
		return change(w, "", "tenantwire", &admissionv1.MutatingWebhookConfiguration{}, false, func(c *admissionv1.MutatingWebhookConfiguration) { c.Webhooks[0].ClientConfig.CABundle = other })
	}},
	{"CAOutdated", func(w *ward) func() {
		return change(w, w.namespace, "tenantwire-ca", &corev1.ConfigMap{}, false, func(c *corev1.ConfigMap) { c.Data["ca.crt"] = "old" })
	}},
	{"WebhookFailsOpen", func(w *ward) func() {
		return change(w, "", "tenantwire", &admissionv1.MutatingWebhookConfiguration{}, false, func(c *admissionv1.MutatingWebhookConfiguration) {
			c.Webhooks[0].FailurePolicy = ptr.To(admissionv1.Ignore)
		})
	}},
	{"WebhookMissing", func(w *ward) func() { return removes(w, "", "tenantwire", &admissionv1.MutatingWebhookConfiguration{}) }},
	{"WebhookUnreachable", func(w *ward) func() { return removes(w, system, "tenantwire-webhook-1", &discoveryv1.EndpointSlice{}) }},
	{"CoordinatorUnreachable", func(w *ward) func() {
		return removes(w, system, "tenantwire-coordinator-1", &discoveryv1.EndpointSlice{})
	}},
	{"OperatorUnavailable", func(w *ward) func() {
		return change(w, system, "tenantwire-operator", &appsv1.Deployment{}, true, func(d *appsv1.Deployment) { d.Status.AvailableReplicas, d.Status.ReadyReplicas = 0, 0 })
	}},
	{"SidecarOutdated", func(w *ward) func() {
		return change(w, w.namespace, "web", &corev1.Pod{}, false, func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "ghcr.io/tenantwire/sidecar:old" })
	}},
	{"NodeClockSkew", func(w *ward) func() {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
		if err := cluster.admin.Create(w.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}); !apierrors.IsAlreadyExists(err) {
			must(w.T, err)
		}
		return w.adds(n, &coordinationv1.Lease{ObjectMeta: w.in(corev1.NamespaceNodeLease, "node-1"), Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("node-1"), RenewTime: &metav1.MicroTime{Time: time.Now().Add(time.Hour)}}})
	}},
	{"NamespaceNotOptedIn", func(w *ward) func() {
		return change(w, "", w.namespace, &corev1.Namespace{}, false, func(n *corev1.Namespace) { delete(n.Labels, v1alpha1.LabelInject) })
	}},
	{"NamespaceWithoutTunnel", func(w *ward) func() { return removes(w, w.namespace, "net", &v1alpha1.TenantTunnel{}) }},
	{"DatapathForbidden", func(w *ward) func() {
		level := change(w, "", w.namespace, &corev1.Namespace{}, false, func(n *corev1.Namespace) { n.Labels["pod-security.kubernetes.io/enforce"] = "restricted" })
		path := w.tunnelWith(func(s *v1alpha1.TenantTunnelSpec) { s.Datapath = v1alpha1.DatapathTUN })
		return func() { path(); level() }
	}},
	{"PodNotInjected", func(w *ward) func() {
		back := change(w, "", w.namespace, &corev1.Namespace{}, false, func(n *corev1.Namespace) { delete(n.Labels, v1alpha1.LabelInject) })
		p := w.pod("old")
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the API server may ask the webhook until it has seen the label go
			err := cluster.admin.Create(w.Context(), p)
			if err == nil || !apierrors.IsInternalError(err) || time.Now().After(end) {
				must(w.T, err)
				break
			}
		}
		back()
		return func() { w.deletes(p) }
	}},
	{"SidecarFailing", func(w *ward) func() {
		return change(w, w.namespace, "web", &corev1.Pod{}, true, func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "tenantwire", RestartCount: 9, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
		})
	}},
	{"NameNotCarried", func(w *ward) func() {
		return w.tunnelWith(func(s *v1alpha1.TenantTunnelSpec) {
			s.Expose = append(s.Expose, v1alpha1.ExposedService{Service: "late"})
		})
	}},
	{"ServiceMissing", func(w *ward) func() { return removes(w, w.namespace, "web", &corev1.Service{}) }},
	{"ServiceWithoutSelector", func(w *ward) func() {
		return change(w, w.namespace, "web", &corev1.Service{}, false, func(s *corev1.Service) { s.Spec.Selector = nil })
	}},
	{"ServiceNotReady", func(w *ward) func() {
		return change(w, w.namespace, "web-1", &discoveryv1.EndpointSlice{}, false, func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = ptr.To(false) })
	}},
	{"EgressWithoutRoute", func(w *ward) func() { return removes(w, w.namespace, "site", &v1alpha1.TunnelPeer{}) }},
	{"MemberNotReady", func(w *ward) func() {
		return change(w, w.namespace, "web", &v1alpha1.TunnelMember{}, true, func(m *v1alpha1.TunnelMember) {
			m.Status.Conditions[0].Status, m.Status.Conditions[0].Reason = metav1.ConditionFalse, "DataPathDown"
		})
	}},
	{"RouteOverlap", func(w *ward) func() {
		return w.adds(w.peer("z-branch", 12, func(p *v1alpha1.TunnelPeer) { p.Spec.Routes = []string{"192.168.10.128/25"} }))
	}},
	{"DuplicateKey", func(w *ward) func() { return w.adds(w.peer("z-twin", 11, func(*v1alpha1.TunnelPeer) {})) }},
	{"DuplicateAddress", func(w *ward) func() {
		return w.adds(w.peer("z-same", 13, func(p *v1alpha1.TunnelPeer) { p.Spec.Addresses = []string{"10.77.0.2"} }))
	}},
	{"PeerExpired", func(w *ward) func() {
		return w.adds(w.peer("past", 14, func(p *v1alpha1.TunnelPeer) { p.Spec.ExpiresAt = &metav1.Time{Time: time.Now().Add(-time.Minute)} }))
	}},
	{"PeerSuspended", func(w *ward) func() {
		return w.adds(w.peer("away", 15, func(p *v1alpha1.TunnelPeer) { p.Spec.State = v1alpha1.PeerSuspended }))
	}},
	{"PeerWithoutTunnel", func(w *ward) func() {
		return w.adds(w.peer("stray", 16, func(p *v1alpha1.TunnelPeer) { p.Spec.Tunnel = "gone" }))
	}},
	{"PresharedKeyMissing", func(w *ward) func() {
		return w.adds(w.peer("keyed", 17, func(p *v1alpha1.TunnelPeer) { p.Spec.PresharedKey = &v1alpha1.PresharedKey{SecretKey: "keyed"} }))
	}},
	{"PeerGrantedNothing", func(w *ward) func() {
		return w.tunnelWith(func(s *v1alpha1.TenantTunnelSpec) { s.Policy = &v1alpha1.Policy{Inbound: []v1alpha1.InboundRule{}} })
	}},
	{"PolicyBlocksTunnel", func(w *ward) func() {
		return w.adds(&networkingv1.NetworkPolicy{ObjectMeta: w.in(w.namespace, "deny"), Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}}})
	}},
	{"PolicyBlocksCoordinator", func(w *ward) func() {
		udp := corev1.ProtocolUDP
		return w.adds(&networkingv1.NetworkPolicy{ObjectMeta: w.in(w.namespace, "udp"), Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress: []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp}}}}}})
	}},
}

// certified gives the operator another certificate, which the API server and pods trust.
func certified(from, to time.Duration, ours bool) func(*ward) func() {
	return func(w *ward) func() {
		leaf, ca := serving(w.T, time.Now().Add(from), time.Now().Add(to), ours)
		secret := change(w, system, "tenantwire-serving-cert", &corev1.Secret{}, false, func(s *corev1.Secret) { s.Data["tls.crt"], s.Data["ca.crt"] = leaf, ca })
		hook := change(w, "", "tenantwire", &admissionv1.MutatingWebhookConfiguration{}, false, func(c *admissionv1.MutatingWebhookConfiguration) { c.Webhooks[0].ClientConfig.CABundle = ca })
		bundle := change(w, w.namespace, "tenantwire-ca", &corev1.ConfigMap{}, false, func(c *corev1.ConfigMap) { c.Data["ca.crt"] = string(ca) })
		return func() { bundle(); hook(); secret() }
	}
}

// tunnelWith changes the tunnel's spec. The operator agrees.
func (w *ward) tunnelWith(with func(*v1alpha1.TenantTunnelSpec)) (undo func()) {
	w.Helper()
	agree := func() {
		change(w, w.namespace, "net", &v1alpha1.TenantTunnel{}, true, func(t *v1alpha1.TenantTunnel) {
			for i := range t.Status.Conditions {
				t.Status.Conditions[i].ObservedGeneration = t.Generation
			}
		})
	}
	back := change(w, w.namespace, "net", &v1alpha1.TenantTunnel{}, false, func(t *v1alpha1.TenantTunnel) { with(&t.Spec) })
	agree()
	return func() { back(); agree() }
}
