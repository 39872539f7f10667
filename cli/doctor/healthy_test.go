package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

var testNow = time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// certificate makes a CA and a leaf that it signed.
func certificate(t testing.TB, from, to time.Time, names ...string) *Certificate {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: from.Add(-time.Hour), NotAfter: to.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, DNSNames: names}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(t, err)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	must(t, err)
	block := func(b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b}) }
	return &Certificate{Leaf: block(leafDER), CA: block(caDER)}
}

var servingNames = []string{"tenantwire-webhook.tenantwire-system.svc", "tenantwire-coordinator.tenantwire-system.svc"}

func condition(kind string, status metav1.ConditionStatus, reason tenant.Reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: string(reason), Message: message, ObservedGeneration: 1, LastTransitionTime: metav1.NewTime(testNow)}
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "u", Generation: 1, CreationTimestamp: metav1.NewTime(testNow.Add(-time.Hour))}
}

func endpoints(namespace, service string, pods ...string) discoveryv1.EndpointSlice {
	s := discoveryv1.EndpointSlice{ObjectMeta: named(namespace, service+"-1"), Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080)}}}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p}})
	}
	return s
}

func publicKey(n byte) key.Public { return key.Public{31: n} }

// memberPod is a pod of tunnel net and its member: number n of the tunnel.
func memberPod(name string, n byte, names ...string) (corev1.Pod, v1alpha1.TunnelMember) {
	ip := netip.AddrFrom4([4]byte{10, 0, 0, n}).String()
	p := corev1.Pod{ObjectMeta: named("acme", name), Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip}}
	p.Labels = map[string]string{"app": name, v1alpha1.LabelTunnel: "net"}
	sidecar := corev1.Container{Name: "tenantwire", Image: "ghcr.io/tenantwire/sidecar:v1"}
	for _, s := range names {
		sidecar.Args = append(sidecar.Args, "--name="+s+"=127.77.0.1")
	}
	p.Spec.InitContainers = []corev1.Container{sidecar}
	p.Spec.Containers = []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
	m := v1alpha1.TunnelMember{ObjectMeta: named("acme", name), Spec: v1alpha1.TunnelMemberSpec{Tunnel: "net", Role: v1alpha1.RoleMember, PodUID: "u", Addresses: []string{netip.AddrFrom4([4]byte{10, 77, 0, n}).String()}},
		Status: v1alpha1.TunnelMemberStatus{PublicKey: publicKey(n).String(), Endpoint: ip + ":51820", Datapath: v1alpha1.DatapathNetstack, Conditions: []metav1.Condition{condition("Ready", metav1.ConditionTrue, tenant.ReasonDataPathUp, "")}}}
	return p, m
}

// deviceOf is what member n's sidecar says, who knows of member other.
func deviceOf(n, other byte) *wire.Device {
	return &wire.Device{Interface: "wg0", PublicKey: publicKey(n), Time: testNow, Up: true, Peers: []wire.DevicePeer{{PublicKey: publicKey(other), Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, other}), 51820),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, other}), 32)}, LastHandshake: testNow.Add(-time.Minute), RxBytes: 1000, TxBytes: 1000}}}
}

// healthy are facts with which nothing is wrong: a tunnel with a gateway, two members, a site and a laptop.
func healthy(t testing.TB) *Facts {
	t.Helper()
	f := &Facts{Namespace: "acme", System: "tenantwire-system", Now: testNow, Server: testNow, LeasesRead: testNow, Kinds: map[string]*unstructured.Unstructured{}, Preshared: map[string]bool{}, gaps: map[source]Gap{}}
	f.Operator = &appsv1.Deployment{ObjectMeta: named("tenantwire-system", "tenantwire-operator"), Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](2), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "operator", Image: "ghcr.io/tenantwire/operator:v1", Args: []string{"--sidecar-image=ghcr.io/tenantwire/sidecar:v1", "--gateway-image=ghcr.io/tenantwire/gateway:v1"}}}}}},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 1, AvailableReplicas: 2, UpdatedReplicas: 2}}
	f.Certificate = certificate(t, testNow.Add(-time.Hour), testNow.Add(365*24*time.Hour), servingNames...)
	f.Webhook = &admissionv1.MutatingWebhookConfiguration{Webhooks: []admissionv1.MutatingWebhook{{Name: "pods.tenantwire.dev", FailurePolicy: ptr.To(admissionv1.Fail), ClientConfig: admissionv1.WebhookClientConfig{CABundle: f.Certificate.CA}}}}
	f.CAs = map[string]string{"acme": string(f.Certificate.CA)}
	for _, k := range ourKinds {
		b, err := os.ReadFile("../../manifests/crds/tenantwire.dev_" + k.plural + ".yaml")
		must(t, err)
		u := &unstructured.Unstructured{}
		must(t, yaml.Unmarshal(b, &u.Object))
		f.Kinds[k.plural] = u
	}
	f.SystemSlice = []discoveryv1.EndpointSlice{endpoints("tenantwire-system", webhookService, "a"), endpoints("tenantwire-system", coordinatorService, "a")}
	ns := corev1.Namespace{ObjectMeta: named("", "acme")}
	ns.Labels = map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled, corev1.LabelMetadataName: "acme", enforceLabel: "restricted"}
	f.Namespaces = []corev1.Namespace{ns}
	f.tenancy()
	return f
}

// tenancy is what there is in the namespace.
func (f *Facts) tenancy() {
	t := v1alpha1.TenantTunnel{ObjectMeta: named("acme", "net")}
	t.Spec = v1alpha1.TenantTunnelSpec{Datapath: v1alpha1.DatapathAuto, Expose: []v1alpha1.ExposedService{{Service: "web"}}, Egress: []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: "192.168.10.5", Ports: []v1alpha1.Port{{Port: 5432, Protocol: v1alpha1.TCP}}}},
		Addressing: v1alpha1.Addressing{IPv4Pool: "10.77.0.0/24", IPv6Prefix: "fd12:3456:789a:1::/64"}, Gateway: &v1alpha1.Gateway{Replicas: 2, Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayLoadBalancer}},
		Policy: &v1alpha1.Policy{Inbound: []v1alpha1.InboundRule{{Peers: v1alpha1.PeerSelector{MatchLabels: map[string]v1alpha1.LabelValue{"team": "a"}}}}}}
	t.Status = v1alpha1.TenantTunnelStatus{Gateway: &v1alpha1.GatewayStatus{Active: "gw-1", PublicKey: publicKey(99).String()}, Conditions: []metav1.Condition{
		condition("Accepted", metav1.ConditionTrue, tenant.ReasonAccepted, ""), condition("Ready", metav1.ConditionTrue, tenant.ReasonAllReady, "")}}
	f.Tunnels = []v1alpha1.TenantTunnel{t}
	web, webMember := memberPod("web", 2, "web", "db.corp.internal")
	client, clientMember := memberPod("client", 3, "web", "db.corp.internal")
	f.Pods, f.Members = []corev1.Pod{web, client}, []v1alpha1.TunnelMember{webMember, clientMember}
	service := corev1.Service{ObjectMeta: named("acme", "web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}}}}
	gateway := corev1.Service{ObjectMeta: named("acme", tenant.GatewayName("net")), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}}}}
	f.Services = []corev1.Service{service, gateway}
	f.Slices = []discoveryv1.EndpointSlice{endpoints("acme", "web", "web"), endpoints("acme", gateway.Name, "gw-1")}
	f.Leases = []coordinationv1.Lease{{ObjectMeta: named("acme", tenant.GatewayName("net")), Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("gw-1"), RenewTime: &metav1.MicroTime{Time: testNow.Add(-time.Second)}}}}
	f.Nodes = []corev1.Node{{ObjectMeta: named("", "n1"), Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.18.0.2"}}}}}
	f.NodeLeases = []coordinationv1.Lease{{ObjectMeta: named(corev1.NamespaceNodeLease, "n1"), Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: testNow.Add(-9 * time.Second)}}}}
	f.Sidecars = map[PodID]Sidecar{{"acme", "web"}: {Device: deviceOf(2, 3), Later: deviceOf(2, 3), Asked: testNow}, {"acme", "client"}: {Device: deviceOf(3, 2), Later: deviceOf(3, 2), Asked: testNow}}
	f.Peers = []v1alpha1.TunnelPeer{peer("site", 10, func(p *v1alpha1.TunnelPeer) {
		p.Spec.Routes, p.Spec.Endpoint = []string{"192.168.10.0/24"}, "vpn.example.com:51820"
	}), peer("laptop", 11, func(p *v1alpha1.TunnelPeer) {
		p.Status.Addresses, p.Spec.PresharedKey = []string{"10.77.0.253"}, &v1alpha1.PresharedKey{SecretKey: "laptop"}
	})}
	f.Preshared["acme/"+tenant.PresharedKeys("net")] = true
}

func peer(name string, n byte, change func(*v1alpha1.TunnelPeer)) v1alpha1.TunnelPeer {
	p := v1alpha1.TunnelPeer{ObjectMeta: named("acme", name), Spec: v1alpha1.TunnelPeerSpec{Tunnel: "net", PublicKey: publicKey(n).String()}}
	p.Labels = map[string]string{"team": "a"}
	p.Status.Conditions = []metav1.Condition{condition("Accepted", metav1.ConditionTrue, tenant.ReasonAccepted, ""), condition("Connected", metav1.ConditionTrue, tenant.ReasonHandshake, "")}
	p.Status.LastHandshake = &metav1.Time{Time: testNow}
	change(&p)
	return p
}
