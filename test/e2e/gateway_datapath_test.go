package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

func TestGatewayTUN(t *testing.T) {
	t.Parallel()
	cluster.NeedTUN(t)
	gatewayWithInterface(t, v1alpha1.DatapathTUN)
}

// The datapath's own tests, and those of a gateway's process on it, run in a guest (sidecar/kernel, sidecar/agent); a cluster does not fit into one.
func TestGatewayKernel(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	if !kit.KernelWireGuard(t, "node1") {
		t.Skip("this kernel has no WireGuard. NOT TESTED: gateway pods with the datapath Kernel")
	}
	gatewayWithInterface(t, v1alpha1.DatapathKernel)
}

// A gateway whose nodes lack what its datapath takes is not replaced by another: the tunnel says why, and its members go on.
func TestGatewayKernelFailsClearly(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	if kit.KernelWireGuard(t, "node1") {
		t.Skip("this kernel has WireGuard. NOT TESTED: a gateway's datapath that the node lacks")
	}
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", kit.Exposing("web"), datapath(v1alpha1.DatapathNetstack), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1, Datapath: v1alpha1.DatapathKernel}
	})
	web(n, 1)
	n.Create(kit.Pod("client"), &v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "site"}, Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main",
		PublicKey: key.NewPrivate().Public().String(), Routes: []string{"192.168.10.0/24"}, Mappings: []v1alpha1.RouteMapping{{Route: "192.168.10.0/24", MapTo: "192.168.20.0/24"}}}})
	n.WaitReady("client")
	n.Ask("client", "http://web")
	const why = "datapath Kernel was asked for and cannot be had: this kernel has no WireGuard"
	kit.Eventually(t, kit.Deadline, "the tunnel's status", func() error {
		var tunnel v1alpha1.TenantTunnel
		n.Read("main", &tunnel)
		if r := meta.FindStatusCondition(tunnel.Status.Conditions, v1alpha1.ConditionReady); r == nil || r.Reason != "DatapathUnavailable" || !strings.Contains(r.Message, why) {
			return errorf("conditions %+v", tunnel.Status.Conditions)
		}
		return nil
	})
	kit.Eventually(t, kit.Deadline, "the status of a peer whose addresses would have to be rewritten", func() error {
		var peer v1alpha1.TunnelPeer
		n.Read("site", &peer)
		if r := meta.FindStatusCondition(peer.Status.Conditions, v1alpha1.ConditionAccepted); r == nil || r.Reason != "Invalid" || !strings.Contains(r.Message, "spec.gateway.datapath: Kernel") {
			return errorf("conditions %+v", peer.Status.Conditions)
		}
		return nil
	})
}

// gatewayWithInterface has a gateway on a real interface do what one on Netstack does, takeovers included: a laptop and members reach each other, the
// laptop reaches Services with and without members behind them at their own ports and no other, and a pod without a sidecar the laptop by an
// egress Service. A peer that claims the API server and another pod for its routes takes neither from the gateway.
func gatewayWithInterface(t *testing.T, kind v1alpha1.DatapathChoice) {
	laptop := kit.NewLaptop(t)
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	const chosen = "10.77.0.50"
	n.Tunnel("main", kit.Exposing("web", "plain"), withIPv4("10.77.0.0/24"), datapath(v1alpha1.DatapathNetstack), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 2, Datapath: kind, Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayNodePort}}
		s.Egress = []v1alpha1.EgressHost{{Host: "laptop.internal", Address: chosen, Service: "laptop", Ports: []v1alpha1.Port{{Port: 8080}}}}
	})
	web, inside, plain := kit.Pod("web", "serve", "http=:8082", "udp-echo=:5353"), kit.Pod("client", "serve", "http=:8081"), kit.Pod("plain", "serve", "http=:8083")
	kit.Declare(&web.Spec, "8082", "5353/UDP")
	plain.Annotations = map[string]string{v1alpha1.AnnotationInject: "false"}
	n.Create(kit.Service("web", "80:8082", "53:5353/udp"), kit.Service("plain", "81:8083"), web, inside, plain)
	n.WaitReady("web", "client", "plain")
	first, _ := activeGateway(n, "")
	g := realGateway{t, n, laptop, kind}
	g.hasInterface(first)

	var api corev1.Service
	if err := n.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &api); err != nil {
		t.Fatal(err)
	}
	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "greedy"}, Spec: v1alpha1.TunnelPeerSpec{
		Tunnel: "main", PublicKey: key.NewPrivate().Public().String(), Routes: []string{api.Spec.ClusterIP + "/32", podIP(n, "plain") + "/32"}}})
	kubectlTenantwire(n, "peer", "add", "laptop", "--address", chosen, "--file", laptop.Config())
	laptop.Up()
	laptop.Start("workload", "serve", "http=:8080")
	g.works()
	g.isShut()

	asker := n.StartRequests("asker", 20*time.Millisecond, "http://laptop.internal:8080")
	asker.WaitMore(20)
	began := time.Now()
	quiet := g.asksAllTheTime(memberIPv4(n.Member("web")), "8082")
	n.Remove(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: first}}, &client.DeleteOptions{GracePeriodSeconds: ptr.To[int64](10)})
	next, _ := activeGateway(n, first)
	asker.WaitMore(20)
	seen, err := asker.Seen()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s was told to end: %s active and answers there after %s; %d requests failed so far, at most %s between two",
		first, next, time.Since(began).Round(100*time.Millisecond), len(seen.Failed), seen.MaxGap.Round(time.Millisecond))
	silent := quiet()
	t.Logf("the laptop, which asks a member meanwhile, is without an answer for %s at most", silent)
	if silent > findsOut {
		t.Errorf("the laptop was not called back: it had to find out by itself")
	}
	g.hasInterface(next)
	g.works()
}

// findsOut is after how long without an answer WireGuard begins another handshake by itself.
const findsOut = 15 * time.Second

// asksAllTheTime has the laptop ask until the result is called, which is the longest time without an answer. The way to a laptop behind a
// node's port is open once it has sent something: it is called back then, whoever is active.
func (g *realGateway) asksAllTheTime(host, port string) func() time.Duration {
	stop, done := make(chan struct{}), make(chan time.Duration)
	go func() {
		last, longest := time.Now(), time.Duration(0)
		for {
			r := g.laptop.Run("workload", "get", "-timeout", "500ms", "http://"+net.JoinHostPort(host, port))
			now := time.Now()
			longest = max(longest, now.Sub(last))
			if r.Code == 0 {
				last = now
			}
			select {
			case <-stop:
				done <- longest.Round(100 * time.Millisecond)
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() time.Duration { close(stop); return <-done }
}

// realGateway is what the test asks again after a takeover.
type realGateway struct {
	t      *testing.T
	n      *kit.Namespace
	laptop *kit.Laptop
	kind   v1alpha1.DatapathChoice
}

// hasInterface looks at the active pod: it has an interface, NET_ADMIN and nothing else, and is not root.
func (g *realGateway) hasInterface(pod string) {
	g.t.Helper()
	var p corev1.Pod
	g.n.Read(pod, &p)
	s := lookAtContainer(g.t, &p, &p.Status.ContainerStatuses[0])
	if s.effective != netAdmin || s.bounds != netAdmin || s.uid == 0 || !strings.Contains(s.interfaces, "wg0:") {
		g.t.Errorf("the gateway: %+v", s)
	}
	if m := g.n.Member(pod); m.Status.Datapath != g.kind || m.Status.DatapathReason != string(g.kind)+" was asked for" {
		g.t.Errorf("its status: %+v", m.Status)
	}
}

// eventually asks until the answer is the host's.
func (g *realGateway) eventually(what, host string, ask func() kit.Result) {
	g.t.Helper()
	kit.Eventually(g.t, kit.Deadline, what, func() error {
		r := ask()
		if h, err := kit.ParseHello(r.Stdout); err != nil || host != "" && h.Host != host {
			return errorf("%s (%w)", r, err)
		}
		return nil
	})
}

func (g *realGateway) works() {
	g.t.Helper()
	fromLaptop := func(host, port string) func() kit.Result {
		return func() kit.Result {
			return g.laptop.Run("workload", "get", "-timeout", "3s", "http://"+net.JoinHostPort(host, port))
		}
	}
	g.eventually("the laptop reaches a member", "web", fromLaptop(memberIPv4(g.n.Member("web")), "8082"))
	g.eventually("the laptop reaches a Service of members", "web", fromLaptop(serviceAddress(g.n, "web"), "80"))
	g.eventually("the laptop reaches a Service of pods without a sidecar", "plain", fromLaptop(serviceAddress(g.n, "plain"), "81"))
	kit.Eventually(g.t, kit.Deadline, "echoes of a Service", func() error {
		if r := g.laptop.Run("workload", "udp-ping", "-interval", "20ms", "-duration", "500ms", serviceAddress(g.n, "web")+":53"); r.Code != 0 {
			return errorf("%s", r)
		}
		return nil
	})
	fromPod := func(pod, url string) func() kit.Result {
		return func() kit.Result { return g.n.Exec(pod, kit.AppContainer, "get", "-timeout", "3s", url) }
	}
	g.eventually("a member reaches the laptop", "", fromPod("client", "http://laptop.internal:8080"))
	g.eventually("a pod without a sidecar reaches the laptop", "", fromPod("plain", "http://laptop:8080"))
}

// isShut expects to be refused wherever nothing is answered for, as if nobody listened there.
func (g *realGateway) isShut() {
	g.t.Helper()
	var tt v1alpha1.TenantTunnel
	g.n.Read("main", &tt)
	own, at := tt.Status.Gateway.Addresses[0], serviceAddress(g.n, "web")
	if r := g.laptop.Run("workload", "lookup", "-server", own+":53", "web.main.tunnel."); !strings.Contains(r.Stdout, at) {
		g.t.Errorf("the gateway does not answer for names: %s", r)
	}
	for what, to := range map[string]string{
		"a target port at a Service's address": at + ":8082", "another Service's port at a Service's address": at + ":81",
		"a Service's port at the gateway's address": own + ":80", "the gateway's health port": own + ":51821",
		"the health port at a Service's address": at + ":51821", "the name server's port at a Service's address": at + ":53",
	} {
		if r := g.laptop.Run("workload", "get", "-timeout", "2s", "http://"+to); r.Code == 0 || !refused(r) {
			g.t.Errorf("%s: %s, want a refusal", what, r)
		}
	}
}
