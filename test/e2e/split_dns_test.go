package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// nameServer is where a site's name server is told what to say, inside its pod.
const nameServer = "127.0.0.1:5300"

// startNaming runs a site at an address that dials a tunnel's gateway, with a web host and a name server.
func (s *site) startNaming(name, address string, n *kit.Namespace, publicKey string) {
	s.n.T.Helper()
	s.n.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{
		"key": s.private.Reveal(),
		"site.yaml": fmt.Sprintf(`interface: {privateKeyFile: key, addresses: [%s/32], listenPort: 51820}
expose:
- {port: 8080}
- {port: 5353, protocol: UDP}
- {port: 53, to: %[2]q}
- {port: 53, protocol: UDP, to: %[2]q}
health: 0.0.0.0:8090
peers: [{publicKey: %s, endpoint: tenantwire-gateway-main.%s.svc:51820, allowedIPs: [10.77.0.0/24], keepalive: 1s}]
`, address, nameServer, publicKey, n.Name)}})
	p := kit.Pod(name, "serve", "http=127.0.0.1:8080", "udp-echo=127.0.0.1:5353", "dns="+nameServer)
	p.Spec.SecurityContext.FSGroup = ptr.To[int64](1000)
	p.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: ptr.To[int32](0o400)}}}}
	wg := kit.Container("wireguard", "--config=/etc/site/site.yaml")
	wg.Image = kit.SidecarImage
	wg.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/etc/site"}}
	wg.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(8090)}}}
	p.Spec.Containers = append(p.Spec.Containers, wg)
	s.n.Create(p)
	s.n.WaitReady(name)
}

// Names of a site are looked up at its own server, through the tunnel: by members and, for pods without a sidecar, by the gateway. They
// follow what the server says, and lead to sites alone, whatever it says.
func TestSplitDNS(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	const branchAddress = "192.168.20.20"
	n.Tunnel("main", withIPv4("10.77.0.0/24"), withProxies(v1alpha1.ProxyEnvUnset), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 1}
		s.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tunnel": "main"}}
		s.DNS = &v1alpha1.DNS{Zones: []v1alpha1.DNSZone{{Domain: "corp.internal", Servers: []string{siteAddress}}}}
		s.Egress = []v1alpha1.EgressHost{{Host: "db.corp.internal", Service: "db",
			Ports: []v1alpha1.Port{{Port: 8080}, {Port: 5353, Protocol: v1alpha1.UDP}}}}
	})
	client, web := kit.Pod("client"), kit.Pod("web", "serve", "http=:8082") // not the port of the carried host
	kit.Declare(&web.Spec, "8082")
	client.Labels["tunnel"], web.Labels["tunnel"] = "main", "main"
	n.Create(client, web, kit.Pod("legacy"))
	n.WaitReady("client", "web", "legacy")
	accepted := func(reason, says string) {
		t.Helper()
		kit.Eventually(t, kit.Deadline, "condition", func() error {
			var tt v1alpha1.TenantTunnel
			n.Read("main", &tt)
			if c := meta.FindStatusCondition(tt.Status.Conditions, v1alpha1.ConditionAccepted); c == nil || c.Reason != reason || !strings.Contains(c.Message, says) {
				return errorf("%+v", c)
			}
			return nil
		})
	}
	accepted("DNSServerWithoutRoute", siteAddress+" (corp.internal)")

	gateway, publicKey := activeGateway(n, "")
	office, branch := newSite(t), newSite(t)
	for name, s := range map[string]*site{"office": office, "branch": branch} {
		n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main",
			PublicKey: s.private.Public().String(), Routes: []string{map[string]string{"office": "192.168.10.0/24", "branch": "192.168.20.0/24"}[name]}}})
	}
	office.startNaming("office", siteAddress, n, publicKey)
	branch.startNaming("branch", branchAddress, n, publicKey)
	accepted("Accepted", "")
	is := func(name string, addresses ...string) {
		t.Helper()
		office.n.App("office", append([]string{"dns-set", nameServer, name}, addresses...)...)
	}
	const url, other, service = "http://db.corp.internal:8080", "http://other.corp.internal:8080", "http://db:8080"
	is("db.corp.internal", siteAddress)
	is("other.corp.internal", siteAddress)
	is("many.corp.internal", "192.168.10.99", branchAddress, "192.168.10.98") // too many for a datagram, and the first is nobody's

	through := func(proxy, url string) kit.Result {
		return n.Exec("client", kit.AppContainer, "get", "-timeout", "12s", "-proxy", proxy, url)
	}
	reaches := func(what, host string, ask func() kit.Result) {
		t.Helper()
		kit.Eventually(t, kit.Deadline, what+" at "+host, func() error {
			r := ask()
			if h, err := kit.ParseHello(r.Stdout); err != nil || h.Host != host {
				return errorf("%s (%w)", r, err)
			}
			return nil
		})
	}
	everybodyReaches := func(host string) {
		t.Helper()
		reaches("member", host, func() kit.Result { return n.Exec("client", kit.AppContainer, "get", url) })
		reaches("pod without a sidecar", host, func() kit.Result { return n.Exec("legacy", kit.AppContainer, "get", service) })
		n.EventuallyApp("client", "udp-ping", "-interval", "20ms", "-duration", "500ms", "db.corp.internal:5353")
		n.EventuallyApp("legacy", "udp-ping", "-interval", "20ms", "-duration", "500ms", "db:5353")
	}
	everybodyReaches("office")
	for _, proxy := range []string{socks, connect} {
		reaches(proxy, "office", func() kit.Result { return through(proxy, other) })
		reaches(proxy, "branch", func() kit.Result { return through(proxy, "http://many.corp.internal:8080") })
	}
	is("db.corp.internal", branchAddress)
	everybodyReaches("branch")

	// Names outside of the zone are asked of nobody, and names in it that there are not are refused.
	for _, name := range []string{"none.corp.internal", "elsewhere.example", "kubernetes.default.svc.cluster.local", "acorp.internal"} {
		if r := through(socks, "http://"+name+":8080"); r.Code == 0 {
			t.Errorf("%s was reached: %s", name, r)
		}
	}
	if text, err := office.n.Logs(t.Context(), "office", corev1.PodLogOptions{Container: kit.AppContainer}); err != nil ||
		!strings.Contains(text, "asked for none.corp.internal") || strings.Contains(text, "example") || strings.Contains(text, "cluster.local") || strings.Contains(text, "acorp") {
		t.Errorf("the office was asked: %s (%v)", text, err)
	}

	// A name that leads back in is none, though what it leads to is there.
	var tunnel v1alpha1.TenantTunnel
	n.Read("main", &tunnel)
	server := n.Member("web")
	reaches("the member by number", "web", func() kit.Result { return through(socks, "http://"+memberIPv4(server)+":8082") })
	var pod corev1.Pod
	n.Read("web", &pod)
	for i, address := range append([]string{"127.0.0.1", "169.254.169.254", memberIPv4(server), pod.Status.PodIP, pod.Status.HostIP, podIP(n, gateway)}, tunnel.Status.Gateway.Addresses...) {
		name := fmt.Sprintf("back%d.corp.internal", i)
		is(name, address)
		port := map[string]string{"127.0.0.1": health}[address]
		if port == "" {
			port = "8082"
		}
		if r := through(socks, "http://"+name+":"+port); r.Code == 0 || unanswered(r) {
			t.Errorf("a name that leads to %s is not refused: %s", address, r)
		}
	}
	is("db.corp.internal", memberIPv4(server))
	for pod, url := range map[string]string{"client": url, "legacy": service} {
		kit.Eventually(t, kit.Deadline, "refusal of "+pod, func() error {
			if r := n.Exec(pod, kit.AppContainer, "get", url); r.Code == 0 || !refused(r) {
				return errorf("%s", r)
			}
			return nil
		})
	}
	if text, err := n.Fetch(t.Context(), n.Name, "client", 51821, "/metrics"); err != nil || !strings.Contains(text, `tenantwire_dns_lookups_total{result="found"}`) ||
		strings.Contains(text, "tenantwire_dns_left_out_total 0\n") {
		t.Errorf("metrics: %v\n%s", err, text)
	}
	is("db.corp.internal", siteAddress)
	everybodyReaches("office")
}
