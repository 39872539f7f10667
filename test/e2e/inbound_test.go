package e2e

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// serviceAddress is the IPv4 address of an exposed Service's own that the status says.
func serviceAddress(n *kit.Namespace, service string) (address string) {
	n.T.Helper()
	kit.Eventually(n.T, kit.Deadline, "an address for "+service, func() error {
		var t v1alpha1.TenantTunnel
		n.Read("main", &t)
		for _, s := range t.Status.Services {
			if s.Service == service && len(s.Addresses) == 2 {
				address = s.Addresses[0]
				return nil
			}
		}
		return errorf("%+v", t.Status.Services)
	})
	return address
}

// forge writes an EndpointSlice of a Service as a tenant may.
func forge(n *kit.Namespace, name, service string, port int32, endpoints ...discoveryv1.Endpoint) {
	n.T.Helper()
	n.Create(&discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("p0"), Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}},
	})
}

// A laptop reaches exposed Services by their names on their own ports, whoever is behind them: members, pods without a sidecar, or both,
// by TCP and UDP. It reaches nothing else by the gateway: no other port, no Service that is not exposed any more, and nothing that somebody
// wrote into an EndpointSlice and that is no pod of the namespace.
func TestInbound(t *testing.T) {
	t.Parallel()
	laptop := kit.NewLaptop(t)
	n := cluster.Namespace(t)
	tunnel := n.Tunnel("main", kit.Exposing("inside", "outside", "mixed", "direct", "forged"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1, Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayNodePort}}
		s.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tunnel": "main"}}
	})
	for _, app := range []string{"inside", "outside"} {
		d := kit.Deployment(app, 1, "serve", "http=:8080", "udp-echo=:5353")
		kit.Declare(&d.Spec.Template.Spec, "8080", "5353/UDP")
		d.Spec.Template.Labels["mixed"] = "yes"
		if app == "inside" {
			d.Spec.Template.Labels["tunnel"] = "main"
		}
		n.Create(d, kit.Service(app, "80:8080", "53:5353/udp"))
	}
	mixed, direct, forged := kit.Service("mixed", "80:8080"), kit.Service("direct", "80:8080"), kit.Service("forged", "80:8080")
	mixed.Spec.Selector = map[string]string{"mixed": "yes"}
	direct.Spec.Selector, direct.Spec.ClusterIP = map[string]string{"app": "inside"}, corev1.ClusterIPNone
	forged.Spec.Selector = nil
	n.Create(mixed, direct, forged)
	inside, outside := n.WaitRollout("inside")[0], n.WaitRollout("outside")[0]
	if kit.IsInjected(&outside) || outside.Labels[v1alpha1.LabelViaGateway] != v1alpha1.ViaGatewayEnabled {
		t.Fatalf("the pod outside: injected %t, labels %v", kit.IsInjected(&outside), outside.Labels)
	}
	stranger := cluster.Namespace(t, kit.NotOptedIn())
	p := kit.Pod("stranger", "serve", "http=:8080")
	p.Labels[v1alpha1.LabelViaGateway] = v1alpha1.ViaGatewayEnabled
	stranger.Create(p)
	stranger.WaitReady("stranger")
	strangerIP := podIP(stranger, "stranger")
	activeGateway(n, "")

	const metadata = "169.254.169.254"
	var api corev1.Service
	if err := n.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &api); err != nil {
		t.Fatal(err)
	}
	kubectlTenantwire(n, "peer", "add", "laptop", "--file", laptop.Config())
	conf, err := os.ReadFile(laptop.Config())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := []string{strangerIP, outside.Status.PodIP, api.Spec.ClusterIP, metadata}
	routed := strings.Replace(string(conf), "AllowedIPs = ", "AllowedIPs = "+strings.Join(elsewhere, "/32, ")+"/32, ", 1)
	if err := os.WriteFile(laptop.Config(), []byte(routed), 0o600); err != nil || routed == string(conf) {
		t.Fatalf("%v: %s", err, routed)
	}
	laptop.Up()

	var tt v1alpha1.TenantTunnel
	n.Read("main", &tt)
	nameServer := net.JoinHostPort(tt.Status.Gateway.Addresses[0], "53")
	isNamed := func(service, address string) {
		t.Helper()
		kit.Eventually(t, 2*kit.Deadline, "the name of "+service, func() error {
			if r := laptop.Run("workload", "lookup", "-server", nameServer, service+".main.tunnel."); !strings.Contains(r.Stdout, address) {
				return errorf("%s, want %s", r, address)
			}
			return nil
		})
	}
	url := func(address string, port int) string {
		return "http://" + net.JoinHostPort(address, strconv.Itoa(port))
	}
	answers := func(service string, hosts ...string) {
		t.Helper()
		at := serviceAddress(n, service)
		isNamed(service, at)
		seen := map[string]bool{}
		kit.Eventually(t, kit.Deadline, "answers of "+service, func() error {
			r := laptop.Run("workload", "get", "-timeout", "3s", url(at, 80))
			h, err := kit.ParseHello(r.Stdout)
			if seen[h.Host] = err == nil; err != nil {
				return errorf("%s (%w)", r, err)
			}
			for _, host := range hosts {
				if !seen[host] {
					return errorf("%s answers, and not yet %s", h.Host, host)
				}
			}
			return nil
		})
		if delete(seen, ""); len(seen) != len(hosts) {
			t.Errorf("%s is answered for by %v, want %v", service, seen, hosts)
		}
	}
	answers("inside", inside.Name)
	answers("outside", outside.Name)
	answers("mixed", inside.Name, outside.Name)
	isNamed("direct", memberIPv4(n.Member(inside.Name)))
	for _, service := range []string{"inside", "outside"} {
		kit.Eventually(t, kit.Deadline, "echoes of "+service, func() error {
			if r := laptop.Run("workload", "udp-ping", "-interval", "20ms", "-duration", "500ms", serviceAddress(n, service)+":53"); r.Code != 0 {
				return errorf("%s", r)
			}
			return nil
		})
	}

	isShut := func(what, at string) {
		t.Helper()
		if r := laptop.Run("workload", "get", "-timeout", "2s", at); r.Code == 0 || !refused(r) && !unanswered(r) {
			t.Errorf("%s is reached: %s", what, r)
		}
	}
	isShut("a target port at a Service's address", url(serviceAddress(n, "inside"), 8080))
	isShut("the name server's port at a Service's address", url(serviceAddress(n, "outside"), 53))
	isShut("the health port at a Service's address", url(serviceAddress(n, "outside"), 51821))
	isShut("the gateway's health port", url(tt.Status.Gateway.Addresses[0], 51821))
	isShut("a Service's port at the gateway's address", url(tt.Status.Gateway.Addresses[0], 80))
	for _, a := range elsewhere {
		isShut("what is not in the tunnel", url(a, 8080))
		isShut("what is not in the tunnel", url(a, 443))
	}

	// Nobody's pod, the node, the API server, metadata, loopback and another namespace's pod, some in the name of a pod that may be reached.
	as := func(p *corev1.Pod, addresses ...string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: addresses, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
	}
	var foreign corev1.Pod
	stranger.Read("stranger", &foreign)
	forge(n, "forged-1", "forged", 8080, as(&outside, strangerIP), as(&foreign, strangerIP), discoveryv1.Endpoint{Addresses: []string{strangerIP}})
	forge(n, "forged-2", "forged", 10250, as(&outside, outside.Status.HostIP), discoveryv1.Endpoint{Addresses: []string{outside.Status.HostIP}})
	forge(n, "forged-3", "forged", 443, as(&outside, api.Spec.ClusterIP))
	at := serviceAddress(n, "forged")
	isNamed("forged", at)
	for range 5 {
		isShut("what is forged", url(at, 80))
	}
	for _, there := range []string{url(strangerIP, 8080), url(api.Spec.ClusterIP, 443), url(outside.Status.HostIP, 10250)} {
		if r := n.Exec(outside.Name, kit.AppContainer, "get", "-timeout", "3s", there); r.Code != 0 {
			t.Errorf("the control: a pod does not reach %s either: %s", there, r)
		}
	}
	forge(n, "true-1", "forged", 8080, as(&outside, outside.Status.PodIP))
	answers("forged", outside.Name)
	for range 10 {
		if r := laptop.Run("workload", "get", "-timeout", "3s", url(at, 80)); !strings.Contains(r.Stdout, outside.Name) {
			t.Errorf("beside the forged ones: %s", r)
		}
	}

	gone := serviceAddress(n, "outside")
	kit.Change(n, "main", tunnel, func(t *v1alpha1.TenantTunnel) {
		t.Spec.Expose = []v1alpha1.ExposedService{{Service: "inside"}}
	})
	kit.Eventually(t, kit.Deadline, "end of what is not exposed", func() error {
		if r := laptop.Run("workload", "get", "-timeout", "2s", url(gone, 80)); r.Code == 0 {
			return errorf("%s", r)
		}
		return nil
	})
	answers("inside", inside.Name)
}
