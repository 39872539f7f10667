package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// site is a WireGuard endpoint that the cluster's tunnel knows nothing of but what a TunnelPeer says: the sidecar's program with a
// file, in front of an application on loopback. It has no privileges either.
type site struct {
	n       *kit.Namespace
	private key.Private
	// preshared is in the file psk, for those peers that are to have it.
	preshared key.Preshared
	address   string
	exposed   string // more entries of the file's expose
	node      string // where it runs; empty: anywhere
}

const siteAddress = "192.168.10.20"

func newSite(t *testing.T) *site {
	return &site{n: cluster.Namespace(t, kit.NotOptedIn()), private: key.NewPrivate(), preshared: key.NewPreshared(), address: siteAddress}
}

// start runs the site for the peers that it lets in, and returns where it listens.
func (s *site) start(name string, member *v1alpha1.TunnelMember) (endpoint string) {
	s.n.T.Helper()
	var ips []string
	for _, a := range member.Spec.Addresses {
		if !strings.Contains(a, ":") {
			ips = append(ips, a+"/32")
		}
	}
	return s.startWith(name, fmt.Sprintf("peers: [{publicKey: %s, allowedIPs: [%s]}]", member.Status.PublicKey, strings.Join(ips, ", ")))
}

// startWith runs the site with the given part of its file, and returns where it listens.
func (s *site) startWith(name, more string) (endpoint string) {
	s.n.T.Helper()
	return s.run(name, fmt.Sprintf(`interface:
  privateKeyFile: key
  addresses: [%s/32]
  listenPort: 51820
expose:
- port: 8080
- port: 5353
  protocol: UDP
%shealth: 0.0.0.0:8090
%s
`, s.address, s.exposed, more))
}

// run runs the site with a file, and returns where it listens. Its health is to be on port 8090.
func (s *site) run(name, file string) (endpoint string) {
	s.n.T.Helper()
	s.n.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{
		"key": s.private.Reveal(), "psk": s.preshared.Reveal(), "site.yaml": file}})
	p := kit.Pod(name, "serve", "http=127.0.0.1:8080", "udp-echo=127.0.0.1:5353")
	p.Labels["site"] = "office"
	p.Spec.NodeName = s.node
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
	return s.n.WaitReady(name)[0].Status.PodIP + ":51820"
}

// isAnsweredBy waits until the client's requests are answered by that host, through the sidecar.
func isAnsweredBy(n *kit.Namespace, within time.Duration, url, host string) {
	n.T.Helper()
	kit.Eventually(n.T, within, "answer from "+host, func() error {
		r := n.Exec("client", kit.AppContainer, "get", url)
		if h, err := kit.ParseHello(r.Stdout); err != nil || h.Host != host || !strings.HasPrefix(h.From, "127.0.0.1:") {
			return errorf("%s (%w)", r, err)
		}
		return nil
	})
}

// A host behind an outside peer is reached by its own name, from a pod that was there before the peer; it follows the peer's
// endpoint, and is refused at once when there is no peer.
func TestEgressByName(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", withIPv4("10.77.0.0/24"), withProxies(v1alpha1.ProxyEnvUnset), func(s *v1alpha1.TenantTunnelSpec) {
		s.Egress = []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: siteAddress,
			Ports: []v1alpha1.Port{{Port: 8080}, {Port: 5353, Protocol: v1alpha1.UDP}}}}
	})
	n.Create(kit.Pod("client"))
	n.WaitReady("client")
	const url = "http://db.corp.internal:8080"
	isRefused := func() {
		t.Helper()
		kit.Eventually(t, kit.Deadline, "refusal without a peer", func() error {
			if r := n.Exec("client", kit.AppContainer, "get", url); r.Code == 0 || !refused(r) {
				return errorf("%s", r)
			}
			return nil
		})
		kit.Eventually(t, kit.Deadline, "condition", func() error {
			var tt v1alpha1.TenantTunnel
			n.Read("main", &tt)
			if c := meta.FindStatusCondition(tt.Status.Conditions, v1alpha1.ConditionAccepted); c == nil || c.Reason != "EgressWithoutRoute" ||
				!strings.Contains(c.Message, "db.corp.internal") {
				return errorf("%+v", c)
			}
			return nil
		})
	}
	isRefused()

	office := newSite(t)
	peer := &v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.TunnelPeerSpec{
		Tunnel: "main", PublicKey: office.private.Public().String(), Routes: []string{"192.168.10.0/24"},
		Endpoint: office.start("first", n.Member("client"))}}
	n.Create(peer)
	answeredBy := func(host string) { t.Helper(); isAnsweredBy(n, kit.Deadline, url, host) }
	answeredBy("first")
	n.App("client", "udp-ping", "-interval", "20ms", "-duration", "500ms", "db.corp.internal:5353")
	for _, proxy := range []string{socks, connect} {
		n.App("client", "get", "-proxy", proxy, url)
		n.App("client", "get", "-proxy", proxy, "http://"+siteAddress+":8080")
	}

	office.n.Remove(kit.Pod("first"))
	office.n.WaitGone(kit.Pod("first"))
	moved := office.start("second", n.Member("client"))
	kit.Change(n, "office", peer, func(p *v1alpha1.TunnelPeer) { p.Spec.Endpoint = moved })
	answeredBy("second")

	state := func(to v1alpha1.PeerState) {
		t.Helper()
		kit.Change(n, "office", peer, func(p *v1alpha1.TunnelPeer) { p.Spec.State = to })
	}
	state(v1alpha1.PeerSuspended)
	isRefused()
	state(v1alpha1.PeerActive)
	answeredBy("second")

	n.Remove(peer)
	isRefused()
}

// An outside peer that is given by a DNS name is found once the name is, and found again at another address when it no longer answers.
func TestPeerByName(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Egress = []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: siteAddress, Ports: []v1alpha1.Port{{Port: 8080}}}}
	})
	n.Create(kit.Pod("client"))
	n.WaitReady("client")
	const url = "http://db.corp.internal:8080"
	office := newSite(t)
	office.n.Create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"site": "office"}, Ports: []corev1.ServicePort{{Port: 51820, Protocol: corev1.ProtocolUDP}}}})
	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.TunnelPeerSpec{
		Tunnel: "main", PublicKey: office.private.Public().String(), Routes: []string{"192.168.10.0/24"}, Endpoint: "office." + office.n.Name + ".svc:51820"}})
	kit.Eventually(t, kit.Deadline, "look-ups of a name that nobody has yet", func() error {
		if text, err := n.Logs(t.Context(), "client", corev1.PodLogOptions{Container: kit.Sidecar}); err != nil || !strings.Contains(text, "endpoint not found") {
			return errorf("%s", text)
		}
		return nil
	})
	office.start("first", n.Member("client"))
	isAnsweredBy(n, kit.Deadline, url, "first")

	office.n.Remove(kit.Pod("first"))
	office.n.WaitGone(kit.Pod("first"))
	office.start("second", n.Member("client"))
	// A handshake is overdue after 135 seconds, and looked at every five.
	isAnsweredBy(n, 3*time.Minute, url, "second")
}
