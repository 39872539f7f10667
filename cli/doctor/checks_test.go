package doctor

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// plants are faults, each by the check that has to name it. A second one for the same check has a number.
var plants = map[string]func(t *testing.T, f *Facts){
	"KindMissing": func(_ *testing.T, f *Facts) { delete(f.Kinds, "tunnelpeers") },
	"KindOutdated": func(_ *testing.T, f *Facts) {
		versions, _, _ := unstructured.NestedSlice(f.Kinds["tenanttunnels"].Object, "spec", "versions")
		unstructured.RemoveNestedField(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties", "spec", "properties", "gateway", "properties", "replicas")
		_ = unstructured.SetNestedSlice(f.Kinds["tenanttunnels"].Object, versions, "spec", "versions")
	},
	"OperatorMissing":     func(_ *testing.T, f *Facts) { f.Operator = nil },
	"OperatorUnavailable": func(_ *testing.T, f *Facts) { f.Operator.Status.AvailableReplicas = 0 },
	"OperatorDegraded":    func(_ *testing.T, f *Facts) { f.Operator.Status.AvailableReplicas = 1 },
	"VersionSkew": func(_ *testing.T, f *Facts) {
		f.Operator.Spec.Template.Spec.Containers[0].Image = "ghcr.io/tenantwire/operator:v2"
	},
	"SidecarOutdated":        func(_ *testing.T, f *Facts) { f.Pods[0].Spec.InitContainers[0].Image = "ghcr.io/tenantwire/sidecar:v0" },
	"WebhookMissing":         func(_ *testing.T, f *Facts) { f.Webhook = nil },
	"WebhookFailsOpen":       func(_ *testing.T, f *Facts) { f.Webhook.Webhooks[0].FailurePolicy = ptr.To(admissionv1.Ignore) },
	"WebhookUnreachable":     func(_ *testing.T, f *Facts) { f.SystemSlice[0].Endpoints[0].Conditions.Ready = ptr.To(false) },
	"CoordinatorUnreachable": func(_ *testing.T, f *Facts) { f.SystemSlice = f.SystemSlice[:1] },
	"CertificateMissing":     func(_ *testing.T, f *Facts) { f.Certificate = &Certificate{} },
	"CertificateExpired": func(t *testing.T, f *Facts) {
		f.Certificate = certificate(t, testNow.Add(-2*time.Hour), testNow.Add(-time.Hour), servingNames...)
	},
	"CertificateNotYetValid": func(t *testing.T, f *Facts) {
		f.Certificate = certificate(t, testNow.Add(time.Hour), testNow.Add(2*time.Hour), servingNames...)
	},
	"CertificateExpiresSoon": func(t *testing.T, f *Facts) {
		f.Certificate = certificate(t, testNow.Add(-time.Hour), testNow.Add(24*time.Hour), servingNames...)
	},
	"CertificateName": func(t *testing.T, f *Facts) {
		f.Certificate = certificate(t, testNow, testNow.Add(9000*time.Hour), servingNames[0])
	},
	"WebhookCAMismatch": func(_ *testing.T, f *Facts) { f.Webhook.Webhooks[0].ClientConfig.CABundle = nil },
	"WebhookCAMismatch 2": func(t *testing.T, f *Facts) {
		f.Webhook.Webhooks[0].ClientConfig.CABundle = certificate(t, testNow, testNow.Add(time.Hour)).CA
	},
	"CAOutdated": func(t *testing.T, f *Facts) {
		f.CAs["acme"] = string(certificate(t, testNow, testNow.Add(time.Hour)).CA)
	},
	"CAOutdated 2":     func(_ *testing.T, f *Facts) { f.CAs = nil },
	"ClockSkew":        func(_ *testing.T, f *Facts) { f.Now = f.Now.Add(time.Minute) },
	"NodeClockSkew":    func(_ *testing.T, f *Facts) { f.NodeLeases[0].Spec.RenewTime.Time = testNow.Add(time.Minute) },
	"SidecarClockSkew": func(_ *testing.T, f *Facts) { f.Sidecars[PodID{"acme", "web"}].Device.Time = testNow.Add(-time.Hour) },

	"NamespaceNotOptedIn":    func(_ *testing.T, f *Facts) { delete(f.Namespaces[0].Labels, v1alpha1.LabelInject) },
	"NamespaceWithoutTunnel": func(_ *testing.T, f *Facts) { f.Tunnels = nil },
	"DatapathForbidden":      func(_ *testing.T, f *Facts) { f.Tunnels[0].Spec.Datapath = v1alpha1.DatapathTUN },
	"PodNotInjected": func(_ *testing.T, f *Facts) {
		f.Pods = append(f.Pods, corev1.Pod{ObjectMeta: named("acme", "old"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}})
	},
	"PodRefused": func(_ *testing.T, f *Facts) {
		f.Pods = append(f.Pods, corev1.Pod{ObjectMeta: named("acme", "host"), Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "app"}}}})
	},
	"PodWithoutMember": func(_ *testing.T, f *Facts) { f.Members = f.Members[:1] },
	"SidecarFailing": func(_ *testing.T, f *Facts) {
		f.Pods[0].Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "tenantwire", RestartCount: 7, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
	},
	"NameNotCarried": func(_ *testing.T, f *Facts) {
		f.Tunnels[0].Spec.Expose = append(f.Tunnels[0].Spec.Expose, v1alpha1.ExposedService{Service: "new"})
	},

	"NotObserved": func(_ *testing.T, f *Facts) { f.Peers[0].Generation = 2 },
	"TunnelDegraded": func(_ *testing.T, f *Facts) {
		f.Tunnels[0].Status.Conditions[0] = condition("Accepted", metav1.ConditionTrue, tenant.ReasonServiceTaken, "spec.egress: db is somebody else's")
	},
	"TunnelNotReady": func(_ *testing.T, f *Facts) {
		f.Tunnels[0].Status.Conditions[1] = condition("Ready", metav1.ConditionFalse, tenant.ReasonPoolExhausted, "no address is left")
	},
	"EgressWithoutRoute": func(_ *testing.T, f *Facts) { f.Peers[0].Spec.State = v1alpha1.PeerSuspended },
	"DNSServerWithoutRoute": func(_ *testing.T, f *Facts) {
		f.Tunnels[0].Spec.DNS = &v1alpha1.DNS{Zones: []v1alpha1.DNSZone{{Domain: "corp.internal", Servers: []string{"10.9.9.9"}}}}
	},
	"NameClash":     func(_ *testing.T, f *Facts) { f.Tunnels[0].Spec.Egress[0].Host = "web" },
	"DuplicateName": func(_ *testing.T, f *Facts) { f.Tunnels[0].Spec.Egress[0].Host = tenant.GatewayName("net") },
	"MemberNotReady": func(_ *testing.T, f *Facts) {
		f.Members[0].Status.Conditions[0] = condition("Ready", metav1.ConditionFalse, tenant.ReasonDatapathUnavailable, "no /dev/net/tun")
	},
	"MemberNotRegistered": func(_ *testing.T, f *Facts) { f.Members[0].Status = v1alpha1.TunnelMemberStatus{} },

	"ServiceMissing":         func(_ *testing.T, f *Facts) { f.Services = f.Services[1:] },
	"ServiceWithoutSelector": func(_ *testing.T, f *Facts) { f.Services[0].Spec.Selector = nil },
	"ServiceNotReady":        func(_ *testing.T, f *Facts) { f.Slices[0].Endpoints[0].Conditions.Ready = ptr.To(false) },
	"ServiceWithoutMembers":  func(_ *testing.T, f *Facts) { f.Pods[0].Spec.InitContainers = nil },
	"TargetPortMissing": func(_ *testing.T, f *Facts) {
		f.Services[0].Spec.Ports[0].TargetPort = intstr.FromString("https")
		f.Slices[0].Ports = nil
	},

	"PeerWithoutTunnel": func(_ *testing.T, f *Facts) { f.Peers[1].Spec.Tunnel = "gone" },
	"PeerInvalid":       func(_ *testing.T, f *Facts) { f.Peers[0].Spec.Routes = []string{"192.168.10.0/24", "nonsense"} },
	"RouteOverlap": func(_ *testing.T, f *Facts) {
		f.Peers = append(f.Peers, peer("z-newer", 12, func(p *v1alpha1.TunnelPeer) { p.Spec.Routes = []string{"192.168.0.0/16"} }))
	},
	"DuplicateAddress": func(_ *testing.T, f *Facts) { f.Peers[1].Spec.Addresses = []string{"10.77.0.2"} },
	"DuplicateKey":     func(_ *testing.T, f *Facts) { f.Peers[1].Spec.PublicKey = publicKey(2).String() },
	"PeerExpired": func(_ *testing.T, f *Facts) {
		f.Peers[1].Spec.ExpiresAt = &metav1.Time{Time: testNow.Add(-time.Minute)}
	},
	"PeerSuspended":       func(_ *testing.T, f *Facts) { f.Peers[1].Spec.State = v1alpha1.PeerSuspended },
	"PresharedKeyMissing": func(_ *testing.T, f *Facts) { f.Preshared = nil },
	"PresharedKeyMissing 2": func(_ *testing.T, f *Facts) {
		f.Peers[1].Status.Conditions[1] = condition("Connected", metav1.ConditionFalse, tenant.ReasonPresharedKeyInvalid, "it is no key")
	},
	"PeerNeverConnected": func(_ *testing.T, f *Facts) {
		f.Peers[1].Status.LastHandshake, f.Peers[1].Status.Conditions[1] = nil, condition("Connected", metav1.ConditionUnknown, tenant.ReasonIdle, "")
	},
	"PeerGrantedNothing": func(_ *testing.T, f *Facts) { f.Peers[1].Labels = nil },

	"GatewayNotActive":    func(_ *testing.T, f *Facts) { f.Tunnels[0].Status.Gateway.Active = "" },
	"GatewayLeaseStale":   func(_ *testing.T, f *Facts) { f.Leases[0].Spec.RenewTime.Time = testNow.Add(-time.Minute) },
	"GatewayServiceEmpty": func(_ *testing.T, f *Facts) { f.Slices[1].Endpoints = nil },
	"LoadBalancerPending": func(_ *testing.T, f *Facts) { f.Services[1].Status.LoadBalancer.Ingress = nil },

	"PolicyBlocksTunnel": func(_ *testing.T, f *Facts) {
		f.Policies = []networkingv1.NetworkPolicy{denying(networkingv1.PolicyTypeIngress)}
	},
	"PolicyBlocksCoordinator": func(_ *testing.T, f *Facts) {
		f.Policies = []networkingv1.NetworkPolicy{denying(networkingv1.PolicyTypeEgress)}
	},
	"RouteCoversCluster": func(_ *testing.T, f *Facts) {
		f.Members[0].Status.Datapath, f.Peers[0].Spec.Routes = v1alpha1.DatapathTUN, []string{"172.18.0.0/16", "192.168.10.0/24"}
	},

	"SidecarSilent":    func(_ *testing.T, f *Facts) { f.Sidecars[PodID{"acme", "web"}] = Sidecar{Why: "nobody answers"} },
	"KeyMismatch":      func(_ *testing.T, f *Facts) { f.Sidecars[PodID{"acme", "web"}].Later.PublicKey = publicKey(77) },
	"MemberUnknown":    func(_ *testing.T, f *Facts) { f.Sidecars[PodID{"acme", "web"}].Later.Peers = nil },
	"AllowedIPsDiffer": func(_ *testing.T, f *Facts) { f.Sidecars[PodID{"acme", "web"}].Later.Peers[0].AllowedIPs = nil },
	"EndpointMoved": func(_ *testing.T, f *Facts) {
		p := &f.Sidecars[PodID{"acme", "web"}].Later.Peers[0]
		p.Endpoint, p.LastHandshake = netip.MustParseAddrPort("10.0.0.99:51820"), testNow.Add(-time.Hour)
	},
	"EndpointNotFound": func(_ *testing.T, f *Facts) {
		d := f.Sidecars[PodID{"acme", "web"}].Later
		d.Peers = append(d.Peers, d.Peers[0])
		d.Peers[1].PublicKey, d.Peers[1].Endpoint = publicKey(10), netip.AddrPort{}
	},
	"HandshakeMissing": func(_ *testing.T, f *Facts) {
		p := &f.Sidecars[PodID{"acme", "web"}].Later.Peers[0]
		p.LastHandshake, p.TxBytes = testNow.Add(-10*time.Minute), 1148
	},
}

// denying lets nothing through in one direction.
func denying(direction networkingv1.PolicyType) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{ObjectMeta: named("acme", "deny"), Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{direction}}}
}

func names(r *Report) (out []string) {
	for _, f := range r.Findings {
		out = append(out, f.Check)
	}
	return out
}

func TestHealthy(t *testing.T) {
	r := Examine(healthy(t), nil)
	if !r.Healthy || len(r.Findings) > 0 || len(r.NotLooked) > 0 || r.Made != len(Checks()) {
		t.Errorf("%+v", r)
	}
	var b bytes.Buffer
	must(t, r.Print(&b))
	if want := fmt.Sprintf("%d checks made: nothing found\n", len(Checks())); b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestEachFaultIsNamed(t *testing.T) {
	for plant, spoil := range plants {
		check, _, _ := strings.Cut(plant, " ")
		t.Run(plant, func(t *testing.T) {
			f := healthy(t)
			spoil(t, f)
			r := Examine(f, nil)
			i := slices.Index(names(r), check)
			if i < 0 {
				t.Fatalf("found %v", names(r))
			}
			found := r.Findings[i]
			if found.What == "" || found.Evidence == "" || found.Fix == "" && found.Severity != Note || found.Object == "" {
				t.Errorf("says too little: %+v", found)
			}
			if healthy := found.Severity == Note; len(r.Findings) == 1 && r.Healthy != healthy {
				t.Errorf("healthy %t with %+v", r.Healthy, found)
			}
			if len(r.Findings) > 4 {
				t.Errorf("one fault has %d findings: %v", len(r.Findings), names(r))
			}
		})
	}
	for _, c := range Checks() {
		if _, ok := plants[c.Name]; !ok && c.run != nil {
			t.Errorf("no fault is planted for %s", c.Name)
		}
	}
}

// What may not be read is no fault, and no reason to be silent about the rest.
func TestRightsMissing(t *testing.T) {
	f := healthy(t)
	f.Webhook, f.Certificate, f.Tunnels[0].Status.Gateway.Active = nil, nil, ""
	f.gap(srcWebhook, "you have not the right")
	f.gap(srcCertificate, "you have not the right")
	r := Examine(f, nil)
	if !slices.Equal(names(r), []string{"GatewayNotActive"}) || len(r.NotLooked) != 2 || !slices.Contains(r.NotLooked[0].Checks, "WebhookMissing") {
		t.Errorf("%v %+v", names(r), r.NotLooked)
	}
	var b bytes.Buffer
	must(t, r.Print(&b))
	for _, want := range []string{"ERROR GatewayNotActive: tunnel acme/net\n", "to do:   kubectl -n acme", "Not looked at:\n- get mutatingwebhookconfigurations: you have not", "1 error\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// What others write gets on no terminal as it is.
func TestFindingsArePrintable(t *testing.T) {
	f := healthy(t)
	f.Tunnels[0].Status.Conditions[1] = condition("Ready", metav1.ConditionFalse, tenant.ReasonPoolExhausted, "a\x1b[2J\nb")
	var b bytes.Buffer
	must(t, Examine(f, nil).Print(&b))
	if strings.ContainsAny(b.String(), "\x1b") || strings.Contains(b.String(), "\nb") {
		t.Errorf("%q", b.String())
	}
}

func TestPoliciesAreReadAsTheyMean(t *testing.T) {
	f := healthy(t)
	udp, tcp := corev1.ProtocolUDP, corev1.ProtocolTCP
	ports := func(protocol *corev1.Protocol, port int32) []networkingv1.NetworkPolicyPort {
		return []networkingv1.NetworkPolicyPort{{Protocol: protocol, Port: ptr.To(intstr.FromInt32(port))}}
	}
	from := func(p networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer {
		return []networkingv1.NetworkPolicyPeer{p}
	}
	for name, test := range map[string]struct {
		rule networkingv1.NetworkPolicyIngressRule
		want bool
	}{
		"everything":            {networkingv1.NetworkPolicyIngressRule{}, true},
		"the port":              {networkingv1.NetworkPolicyIngressRule{Ports: ports(&udp, 51820)}, true},
		"the port, of TCP":      {networkingv1.NetworkPolicyIngressRule{Ports: ports(&tcp, 51820)}, false},
		"no protocol is TCP":    {networkingv1.NetworkPolicyIngressRule{Ports: ports(nil, 51820)}, false},
		"another port":          {networkingv1.NetworkPolicyIngressRule{Ports: ports(&udp, 53)}, false},
		"a range of ports":      {networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp, Port: ptr.To(intstr.FromInt32(50000)), EndPort: ptr.To[int32](60000)}}}, true},
		"all of the namespace":  {networkingv1.NetworkPolicyIngressRule{From: from(networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}})}, true},
		"others of it":          {networkingv1.NetworkPolicyIngressRule{From: from(networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}}})}, false},
		"another namespace":     {networkingv1.NetworkPolicyIngressRule{From: from(networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}})}, false},
		"this one by its name":  {networkingv1.NetworkPolicyIngressRule{From: from(networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "acme"}}})}, true},
		"its addresses":         {networkingv1.NetworkPolicyIngressRule{From: from(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}})}, true},
		"its addresses, but it": {networkingv1.NetworkPolicyIngressRule{From: from(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.0.0.3/32"}}})}, false},
	} {
		p := networkingv1.NetworkPolicy{ObjectMeta: named("acme", "p"), Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{test.rule}}}
		if got, by := allows([]networkingv1.NetworkPolicy{p}, &f.Pods[0], networkingv1.PolicyTypeIngress, f.sideOf(&f.Pods[1]), udp, 51820); got != test.want || len(by) != 1 {
			t.Errorf("%s: %t by %v", name, got, by)
		}
		if got, _ := allows([]networkingv1.NetworkPolicy{denying(networkingv1.PolicyTypeIngress), p}, &f.Pods[0], networkingv1.PolicyTypeIngress, f.sideOf(&f.Pods[1]), udp, 51820); got != test.want {
			t.Errorf("%s, beside one that lets nothing through: %t", name, got)
		}
		if got, _ := allows([]networkingv1.NetworkPolicy{p}, &f.Pods[0], networkingv1.PolicyTypeEgress, f.sideOf(&f.Pods[1]), udp, 51820); !got {
			t.Errorf("%s: it is about the other direction", name)
		}
	}
}

var docRow = regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\| (Error|Warning|Note) \\| (.*?) \\| (.*?) \\|$")

// The document has a row for each check, and a test that plants its fault; no other rows.
func TestDocumentedChecks(t *testing.T) {
	b, err := os.ReadFile("../../docs/troubleshooting.md")
	must(t, err)
	rows := map[string][]string{}
	for _, m := range docRow.FindAllStringSubmatch(string(b), -1) {
		rows[m[1]] = m[2:]
	}
	for _, c := range Checks() {
		row := rows[c.Name]
		if row == nil {
			t.Errorf("no row for: | `%s` | %s | %s | |", c.Name, c.Severity, c.Looks)
			continue
		}
		if row[0] != string(c.Severity) || row[1] != c.Looks {
			t.Errorf("the row of %s is %q, want %q, %q", c.Name, row[:2], c.Severity, c.Looks)
		}
		if !tested(t, row[2]) {
			t.Errorf("the row of %s names no test that there is: %s", c.Name, row[2])
		}
		delete(rows, c.Name)
	}
	for name := range rows {
		t.Errorf("there is no check %s", name)
	}
}

// tested says whether tests that are named are there.
func tested(t *testing.T, named string) bool {
	t.Helper()
	var all strings.Builder
	for _, path := range []string{"checks_test.go", "path_test.go", "device_test.go", "../doctor_cluster_test.go", "../../test/e2e/doctor_test.go", "../../sidecar/agent/diagnose_test.go"} {
		b, err := os.ReadFile(path)
		must(t, err)
		all.Write(b)
	}
	names := strings.Split(named, ", ")
	return !slices.ContainsFunc(names, func(name string) bool { return !strings.Contains(all.String(), "func "+strings.Trim(name, "`")+"(") })
}
