package e2e

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// gatewayPort is the port of the gateway's pods that the status says for one of db.corp.internal's.
func gatewayPort(n *kit.Namespace, port int32) (at int32) {
	n.T.Helper()
	kit.Eventually(n.T, kit.Deadline, "a port of the gateway", func() error {
		var t v1alpha1.TenantTunnel
		n.Read("main", &t)
		if t.Status.Gateway != nil {
			for _, e := range t.Status.Gateway.Egress {
				if e.Port.Port == port {
					at = e.GatewayPort
					return nil
				}
			}
		}
		return errorf("%+v", t.Status.Gateway)
	})
	return at
}

// podIP is a pod's address.
func podIP(n *kit.Namespace, pod string) string {
	n.T.Helper()
	var p corev1.Pod
	n.Read(pod, &p)
	return p.Status.PodIP
}

// Pods without a sidecar reach a host behind an outside peer by the name of a Service: those of the tunnel's namespace, and nobody else,
// whatever he says of himself. It goes with its entry, and works on when another gateway pod takes over.
func TestEgressService(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	host := v1alpha1.EgressHost{Host: "db.corp.internal", Address: siteAddress, Service: "db",
		Ports: []v1alpha1.Port{{Port: 8080}, {Port: 5353, Protocol: v1alpha1.UDP}}}
	n.Create(kit.Service("mail", "25"))
	tunnel := n.Tunnel("main", withIPv4("10.77.0.0/24"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Gateway = &v1alpha1.Gateway{Replicas: 2}
		s.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tunnel": "main"}}
		mail := v1alpha1.EgressHost{Host: "mail.corp.internal", Address: siteAddress, Service: "mail", Ports: []v1alpha1.Port{{Port: 25}}}
		s.Egress = []v1alpha1.EgressHost{mail, host}
	})
	outside := kit.Pod("opted-out")
	outside.Annotations = map[string]string{v1alpha1.AnnotationInject: "false"}
	member := kit.Pod("member")
	member.Labels["tunnel"] = "main"
	n.Create(outside, kit.Pod("not-selected"), member)
	for _, p := range n.WaitReady("opted-out", "not-selected", "member") {
		if kit.IsInjected(&p) != (p.Name == "member") || (p.Labels[v1alpha1.LabelViaGateway] == v1alpha1.ViaGatewayEnabled) == kit.IsInjected(&p) {
			t.Errorf("%s: injected %t, labels %v", p.Name, kit.IsInjected(&p), p.Labels)
		}
	}
	first, publicKey := activeGateway(n, "")
	office := newSite(t)
	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.TunnelPeerSpec{
		Tunnel: "main", PublicKey: office.private.Public().String(), Routes: []string{"192.168.10.0/24"}}})
	office.startWith("office", fmt.Sprintf("peers: [{publicKey: %s, endpoint: tenantwire-gateway-main.%s.svc:51820, allowedIPs: [10.77.0.0/24], keepalive: 1s}]\n",
		publicKey, n.Name))

	const url = "http://db:8080"
	for _, pod := range []string{"opted-out", "not-selected", "member"} {
		if h := answered(n, pod, url); h.Host != "office" {
			t.Errorf("%s is answered by %+v", pod, h)
		}
		n.EventuallyApp(pod, "udp-ping", "-interval", "20ms", "-duration", "500ms", "db:5353")
	}
	kit.Eventually(t, kit.Deadline, "condition", func() error {
		var tt v1alpha1.TenantTunnel
		n.Read("main", &tt)
		if c := meta.FindStatusCondition(tt.Status.Conditions, v1alpha1.ConditionAccepted); c == nil || c.Reason != "EgressServiceTaken" || !strings.Contains(c.Message, "mail") {
			return errorf("%+v", c)
		}
		return nil
	})

	// Of another namespace, by the Service and past it, with our label.
	stranger := cluster.Namespace(t, kit.NotOptedIn())
	p := kit.Pod("stranger")
	p.Labels[v1alpha1.LabelViaGateway] = v1alpha1.ViaGatewayEnabled
	stranger.Create(p)
	stranger.WaitReady("stranger")
	direct := func(port int32) string {
		return net.JoinHostPort(podIP(n, first), strconv.Itoa(int(gatewayPort(n, port))))
	}
	for _, at := range []string{"db." + n.Name + ".svc:8080", direct(8080)} {
		for range 3 {
			if r := stranger.Exec("stranger", kit.AppContainer, "get", "-timeout", "3s", "http://"+at); r.Code == 0 || !refused(r) {
				t.Errorf("a stranger at %s: %s, want a refusal", at, r)
			}
		}
	}
	if r := stranger.Exec("stranger", kit.AppContainer, "udp-ping", "-interval", "20ms", "-duration", "500ms", direct(5353)); r.Code == 0 {
		t.Errorf("datagrams of a stranger are carried: %s", r)
	}
	answered(n, "opted-out", "http://"+direct(8080)) // the control: the way is there
	n.EventuallyApp("opted-out", "udp-ping", "-interval", "20ms", "-duration", "500ms", direct(5353))

	asker := n.StartRequests("asker", 20*time.Millisecond, url)
	if s, err := asker.Seen(); err == nil {
		t.Logf("a pod that asks as soon as it starts was refused %d times before it was known", len(s.Failed))
	}
	for _, c := range []struct {
		how   string
		grace int64
	}{{"told to end", 10}, {"killed", 0}} {
		asker.WaitMore(20)
		began := time.Now()
		goes := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: first}}
		n.Remove(goes, &client.DeleteOptions{GracePeriodSeconds: ptr.To(c.grace)})
		activeGateway(n, first)
		asker.WaitMore(20)
		n.EventuallyApp("opted-out", "udp-ping", "-interval", "20ms", "-duration", "500ms", "db:5353")
		took := time.Since(began).Round(100 * time.Millisecond)
		seen, err := asker.Seen()
		if err != nil {
			t.Fatal(err)
		}
		n.WaitGone(goes) // else it carries on should the other go meanwhile
		next, _ := activeGateway(n, first)
		t.Logf("%s was %s: %s active and answers there after %s; %d requests failed so far, at most %s between two",
			first, c.how, next, took, len(seen.Failed), seen.MaxGap.Round(time.Millisecond))
		first = next
	}

	at, udpAt := direct(8080), direct(5353)
	isClosed := func(what string, args ...string) {
		t.Helper()
		kit.Eventually(t, kit.Deadline, what+" closed", func() error {
			if r := n.Exec("opted-out", kit.AppContainer, args...); r.Code == 0 {
				return errorf("%s", r)
			}
			return nil
		})
	}
	kit.Change(n, "main", tunnel, func(t *v1alpha1.TenantTunnel) {
		host.Ports = host.Ports[:1]
		t.Spec.Egress = []v1alpha1.EgressHost{host}
	})
	isClosed("the UDP port", "udp-ping", "-interval", "100ms", "-duration", "300ms", udpAt)
	answered(n, "opted-out", url)
	kit.Change(n, "main", tunnel, func(t *v1alpha1.TenantTunnel) { t.Spec.Egress[0].Service = "" })
	isClosed("the port", "get", "-timeout", "2s", "http://"+at)
	kit.Eventually(t, kit.Deadline, "the Service goes", func() error {
		err := n.Get(t.Context(), client.ObjectKey{Namespace: n.Name, Name: "db"}, &corev1.Service{})
		if !apierrors.IsNotFound(err) {
			return errorf("it is still there: %w", err)
		}
		return nil
	})
	n.Read("mail", &corev1.Service{}) // which is not ours
}
