package e2e

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
	"github.com/tenantwire/tenantwire/test/prom"
)

// Alerts of which TestAlertsOfTheOperator plants the cause, as others would suffer from it.
var operatorAlerts = []string{"TenantWireCertificateExpiring", "TenantWireRotationStuck", "TenantWireOperatorDown", "TenantWireNoLeader", "TenantWireCoordinatorFailing"}

// Alerts whose cause cannot be planted in a cluster, and why. test/install has them fire over planted series.
var notPlanted = map[string]string{
	"TenantWireTunnelRejected": "whatever the API server takes is accepted by this version: there is no tunnel that it rejects",
}

// plant makes a cause in a namespace of its own. What is not in its namespace, a site say, may be anywhere.
type plant struct {
	alert   string
	options []kit.NamespaceOption
	do      func(t *testing.T, n *kit.Namespace)
	also    []string // alerts that fire for the same cause
}

var plants = []plant{
	{alert: "TenantWireTunnelDegraded", do: noGateway},
	{alert: "TenantWireDatapathDown", do: fullPool, also: []string{"TenantWireTunnelDegraded"}},
	{alert: "TenantWireConfigNotApplied", do: portTaken},
	{alert: "TenantWireDatapathDowngraded", do: lesserDatapath, options: []kit.NamespaceOption{kit.PodSecurity("privileged")}},
	{alert: "TenantWireHandshakeStale", do: silentPeer},
	{alert: "TenantWireRekeyingExcessive", do: manyHandshakes},
	{alert: "TenantWirePacketsDropped", do: garbage},
}

// A Prometheus that scrapes the cluster fires each alert for its cause and no other, in the namespace of the cause alone. Beside them a
// tunnel with all that there is, under traffic, is silent all the while, and every query of the dashboard has something to show of it.
func TestAlerts(t *testing.T) {
	t.Parallel()
	p := prom.Start(t, cluster)
	everyAlertIsPlanted(t)
	well := healthyTenant(t)
	kit.Eventually(t, kit.Deadline, "evaluation of every alert", p.CheckRules)
	fires(t, p, fmt.Sprintf("namespace=%q", well.Name)) // pods that start are not ready, and for too long by scaled times
	since := time.Now()
	t.Run("planted", func(t *testing.T) {
		for _, c := range plants {
			t.Run(c.alert, func(t *testing.T) {
				t.Parallel()
				n := cluster.Namespace(t, c.options...)
				c.do(t, n)
				fires(t, p, fmt.Sprintf("namespace=%q", n.Name), append(c.also, c.alert)...)
			})
		}
	})
	t.Run("dashboard", func(t *testing.T) { dashboardShows(t, p, well.Name) })
	fired, err := p.Fired(fmt.Sprintf("namespace=%q", well.Name), since)
	if err != nil || len(fired) > 0 {
		t.Errorf("of a tunnel that is well: %v, %v", fired, err)
	}
}

// everyAlertIsPlanted holds the lists above to what is shipped, and says aloud what is left out.
func everyAlertIsPlanted(t *testing.T) {
	t.Helper()
	shipped, err := prom.AlertNames()
	if err != nil {
		t.Fatal(err)
	}
	planted := append(slices.Clone(operatorAlerts), slices.Collect(maps.Keys(notPlanted))...)
	for _, c := range plants {
		planted = append(planted, c.alert)
	}
	slices.Sort(shipped)
	slices.Sort(planted)
	if !slices.Equal(shipped, planted) {
		t.Fatalf("alerts.yaml has %v, the tests plant %v", shipped, planted)
	}
	for name, why := range notPlanted {
		t.Run(name, func(t *testing.T) { t.Skipf("NOT PLANTED in a cluster: %s. Its rule is tested in test/install", why) })
	}
}

// fires waits until exactly these alerts fire of those that match.
func fires(t *testing.T, p *prom.Prometheus, match string, alerts ...string) {
	t.Helper()
	slices.Sort(alerts)
	kit.Eventually(t, 2*kit.Deadline, fmt.Sprintf("alerts %v", alerts), func() error {
		firing, err := p.Firing(match)
		if err != nil {
			return err
		}
		var names []string
		for _, a := range firing {
			names = append(names, a.Labels["alertname"])
		}
		slices.Sort(names)
		if names = slices.Compact(names); !slices.Equal(names, alerts) {
			return errorf("firing: %v", firing)
		}
		return nil
	})
}

// healthyTenant has members, a gateway, an outside peer and traffic of every kind that the dashboard shows.
func healthyTenant(t *testing.T) *kit.Namespace {
	t.Helper()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1}
		s.Egress = []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: siteAddress, Ports: []v1alpha1.Port{{Port: 8080}, {Port: 5353, Protocol: v1alpha1.UDP}}}}
	})
	d := kit.Deployment("web", 1, "serve", "http=:8082", "udp-echo=:5354") // not the ports of the carried host
	kit.Declare(&d.Spec.Template.Spec, "8082", "5354/UDP")
	n.Create(kit.Service("web", "80:8082", "53:5354/udp"), d)
	n.WaitRollout("web")
	_, publicKey := activeGateway(n, "")
	office := newSite(t)
	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.TunnelPeerSpec{
		Tunnel: "main", PublicKey: office.private.Public().String(), Routes: []string{"192.168.10.0/24"}}})
	office.startWith("office", fmt.Sprintf("peers: [{publicKey: %s, endpoint: tenantwire-gateway-main.%s.svc:51820, allowedIPs: [10.77.0.0/24], keepalive: 1s}]\n", publicKey, n.Name))
	n.StartRequests("client", 200*time.Millisecond, "http://web")
	n.StartPing("pinger", "udp", 200*time.Millisecond, "web:53")
	n.StartRequests("far-client", 200*time.Millisecond, "http://db.corp.internal:8080")
	return n
}

// noGateway asks for a gateway that no node has the CPUs for.
func noGateway(_ *testing.T, n *kit.Namespace) {
	n.Tunnel("main", func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1, Resources: &v1alpha1.GatewayResources{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10k")}, Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10k")}}}
	})
}

// fullPool has a pod wait for an address: outside peers have all but the last, which is kept from them, and another pod has that.
func fullPool(t *testing.T, n *kit.Namespace) {
	const hosts = 13
	n.Tunnel("main", withIPv4("10.77.0.0/28"))
	for i := range hosts {
		n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("peer-%d", i)}, Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main",
			PublicKey: key.NewPrivate().Public().String(), Addresses: []string{fmt.Sprintf("10.77.0.%d", i+1)}}})
	}
	kit.Eventually(t, kit.Deadline, "a full pool", func() error {
		var l v1alpha1.TunnelPeerList
		if err := n.List(t.Context(), &l, client.InNamespace(n.Name)); err != nil {
			return err
		}
		for _, p := range l.Items {
			if len(p.Status.Addresses) == 0 {
				return errorf("%s has no address yet", p.Name)
			}
		}
		return nil
	})
	n.Create(kit.Pod("last"))
	n.WaitReady("last")
	n.Create(kit.Pod("waiting"))
}

// portTaken gives a carried Service a port that the client's application holds already.
func portTaken(_ *testing.T, n *kit.Namespace) {
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	n.Create(kit.Pod("client", "serve", "http=:8085"))
	n.WaitReady("client")
	n.EventuallyApp("client", "get", "http://127.0.0.1:8085")
	kit.Change(n, "web", &corev1.Service{}, func(s *corev1.Service) {
		more := s.Spec.Ports[0]
		more.Name, more.Port = "more", 8085
		s.Spec.Ports = append(s.Spec.Ports, more)
	})
}

// lesserDatapath has a pod's sidecar start again where it finds no IPv6, without which there is no real interface.
func lesserDatapath(t *testing.T, n *kit.Namespace) {
	cluster.NeedTUN(t)
	n.Tunnel("main", datapath(v1alpha1.DatapathAuto))
	n.Create(kit.Pod("first"), kit.Pod("second"))
	n.WaitReady("first", "second")
	if d := n.Member("second").Status.Datapath; d == v1alpha1.DatapathNetstack {
		t.Fatalf("the datapath is %s already", d)
	}
	var p corev1.Pod
	n.Read("second", &p)
	pid := kit.ContainerPID(t, p.Spec.NodeName, kit.SidecarStatus(&p).ContainerID)
	kit.NodeExec(t, p.Spec.NodeName, "nsenter", "-t", strconv.Itoa(pid), "-n", "sh", "-c",
		"for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$f; done")
	kit.KillSidecar(t, &p)
	kit.Eventually(t, kit.Deadline, "a pod without an interface", func() error {
		if d := n.Member("second").Status.Datapath; d != v1alpha1.DatapathNetstack {
			return errorf("the datapath is %s", d)
		}
		return nil
	})
}

// silentPeer sends to a peer where nobody listens.
func silentPeer(_ *testing.T, n *kit.Namespace) {
	n.Tunnel("main", withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Egress = []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: siteAddress, Ports: []v1alpha1.Port{{Port: 8080}}}}
	})
	n.Create(kit.Pod("nobody"))
	n.WaitReady("nobody")
	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main",
		PublicKey: key.NewPrivate().Public().String(), Routes: []string{"192.168.10.0/24"}, Endpoint: net.JoinHostPort(podIP(n, "nobody"), "51999")}})
	n.Create(kit.Pod("client", "get", "-n", "1000000", "-interval", "500ms", "-timeout", "2s", "http://db.corp.internal:8080"))
	n.WaitReady("client")
}

// manyHandshakes has a laptop forget its session again and again.
func manyHandshakes(t *testing.T, n *kit.Namespace) {
	laptop := kit.NewLaptop(t)
	n.Tunnel("main", withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1, Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayNodePort}}
	})
	activeGateway(n, "")
	kubectlTenantwire(n, "peer", "add", "laptop", "--file", laptop.Config())
	laptop.Up()
	stripped := laptop.Run("wg-quick", "strip", laptop.Config())
	bare := laptop.Config() + ".bare"
	if err := os.WriteFile(bare, []byte(stripped.Stdout), 0o600); err != nil || stripped.Code != 0 {
		t.Fatalf("%v: %s", err, stripped)
	}
	iface := interfaceOf(laptop)
	laptop.Start("sh", "-c", "while :; do wg setconf "+iface+" /dev/null; wg setconf "+iface+" "+bare+"; sleep 1.5; done")
}

// garbage sends a member what no WireGuard understands.
func garbage(t *testing.T, n *kit.Namespace) {
	n.Tunnel("main")
	n.Create(kit.Pod("member"))
	n.WaitReady("member")
	sender := cluster.Namespace(t, kit.NotOptedIn())
	sender.Create(kit.Pod("sender", "udp-ping", "-interval", "5ms", "-duration", "1h", net.JoinHostPort(podIP(n, "member"), strconv.Itoa(51820))))
	sender.WaitReady("sender")
}

// silentPanels have nothing to show of what is well.
var silentPanels = []string{"Dropped packets, by reason", "Failures, by reason"}

// dashboardShows asks every query of the dashboard for a namespace, as Grafana does.
func dashboardShows(t *testing.T, p *prom.Prometheus, namespace string) {
	t.Helper()
	panels, err := prom.Panels()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, panel := range panels {
		for _, query := range panel.Queries(namespace) {
			kit.Eventually(t, kit.Deadline, panel.Title, func() error {
				got, err := p.Query(query)
				if err == nil && len(got) == 0 && !slices.Contains(silentPanels, panel.Title) {
					err = errorf("no data: %s", query)
				}
				return err
			})
			asked++
		}
	}
	if asked < 30 {
		t.Errorf("%d queries", asked)
	}
}

// interfaceOf is what wg-quick calls a laptop's interface.
func interfaceOf(laptop *kit.Laptop) string {
	return strings.TrimSuffix(filepath.Base(laptop.Config()), ".conf")
}
