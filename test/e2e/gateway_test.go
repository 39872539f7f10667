package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// activeGateway waits until the tunnel says that a gateway pod other than before is active, and that pod is ready.
func activeGateway(n *kit.Namespace, before string) (pod, publicKey string) {
	n.T.Helper()
	kit.Eventually(n.T, kit.Deadline, "active gateway", func() error {
		var t v1alpha1.TenantTunnel
		n.Read("main", &t)
		g := t.Status.Gateway
		if g == nil || g.Active == "" || g.Active == before || g.PublicKey == "" {
			return errorf("%+v", g)
		}
		pod, publicKey = g.Active, g.PublicKey
		return nil
	})
	return pod, publicKey
}

// memberIPv4 is a member's IPv4 address inside the tunnel.
func memberIPv4(m *v1alpha1.TunnelMember) string {
	for _, a := range m.Spec.Addresses {
		if !strings.Contains(a, ":") {
			return a
		}
	}
	return ""
}

// Members and an outside host that dials reach each other through the tunnel's gateway, which has no privileges: the host by its name,
// and of the members what is exposed and nothing else. When the active pod goes, another takes over, and the host need do nothing.
func TestGateway(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 2}
		s.Egress = []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: siteAddress, Ports: []v1alpha1.Port{{Port: 8080}}}}
	})
	web := kit.Deployment("web", 1, "serve", "http=:8082") // not the port of the carried host
	kit.Declare(&web.Spec.Template.Spec, "8082")
	n.Create(kit.Service("web", "80:8082"), web)
	server := n.WaitRollout("web")[0]
	private := kit.Pod("client", "serve", "http=:8081")
	kit.Declare(&private.Spec, "8081")
	n.Create(private)
	n.WaitReady("client")
	const url = "http://db.corp.internal:8080"

	first, publicKey := activeGateway(n, "")
	office := newSite(t)
	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.TunnelPeerSpec{
		Tunnel: "main", PublicKey: office.private.Public().String(), Routes: []string{"192.168.10.0/24"}, PresharedKey: &v1alpha1.PresharedKey{SecretKey: "office"}}})
	connected := func(want metav1.ConditionStatus, reason string) {
		t.Helper()
		kit.Eventually(t, kit.Deadline, "the peer's status", func() error {
			var p v1alpha1.TunnelPeer
			n.Read("office", &p)
			c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionConnected)
			if c == nil || c.Status != want || c.Reason != reason || !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionAccepted) ||
				p.Status.LastHandshake == nil && want == metav1.ConditionTrue {
				return errorf("%+v", p.Status)
			}
			return nil
		})
	}
	connected(metav1.ConditionFalse, "PresharedKeyMissing")
	n.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "tenantwire-psk-main"}, StringData: map[string]string{"office": office.preshared.Reveal()}})
	office.startWith("office", fmt.Sprintf(`peers: [{publicKey: %s, presharedKeyFile: psk, endpoint: tenantwire-gateway-main.%s.svc:51820, allowedIPs: [10.77.0.0/24], keepalive: 1s}]
forwards:
- {listen: 127.0.0.1:9000, targets: ["%s:8082"]}
- {listen: 127.0.0.1:9001, targets: ["%s:8081"]}
`, publicKey, n.Name, memberIPv4(n.Member(server.Name)), memberIPv4(n.Member("client"))))
	isAnsweredBy(n, 2*kit.Deadline, url, "office") // a kubelet shows a Secret within a minute or two
	kit.Eventually(t, kit.Deadline, "answer to the office", func() error {
		r := office.n.Exec("office", kit.AppContainer, "get", "http://127.0.0.1:9000")
		if h, err := kit.ParseHello(r.Stdout); err != nil || h.Host != server.Name {
			return errorf("%s (%w)", r, err)
		}
		return nil
	})
	connected(metav1.ConditionTrue, "Handshake")
	for range 3 {
		if r := office.n.Exec("office", kit.AppContainer, "get", "-timeout", "2s", "http://127.0.0.1:9001"); r.Code == 0 {
			t.Errorf("the office reaches a port that is not exposed: %s", r)
		}
	}

	asker := n.StartRequests("asker", 20*time.Millisecond, url)
	remove := func(grace int64) func() {
		return func() {
			n.Remove(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: first}}, &client.DeleteOptions{GracePeriodSeconds: &grace})
		}
	}
	for _, c := range []struct {
		how  string
		lose func()
	}{
		{"told to end", remove(10)}, {"killed", remove(0)},
		{"replaced, with those that stand by", func() { kit.Change(n, "tenantwire-gateway-main", &appsv1.Deployment{}, restart) }},
	} {
		asker.WaitMore(20)
		began := time.Now()
		c.lose()
		next, _ := activeGateway(n, first)
		asker.WaitMore(20)
		seen, err := asker.Seen()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s was %s: %s active and answers there after %s; %d requests failed so far, at most %s between two",
			first, c.how, next, time.Since(began).Round(100*time.Millisecond), len(seen.Failed), seen.MaxGap.Round(time.Millisecond))
		first = next
	}
}
