package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// Default deny, from both sides: what a member's tunnel address answers to a hostile peer, and where its proxies lead.
func TestInvariant5NothingIsReachableThatWasNotDeclared(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	n := invNewTenant(t, cluster)
	t.Run("inbound", func(t *testing.T) {
		target := n.Member(n.web[0].Name)
		peer, err := key.ParsePublic(target.Status.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		a := newAttacker(t, invNetns(t, n.client), memberKey(t, n.client), peer, target.Status.Endpoint)
		inboundIsDenied(t, n, a, n.addresses("client"), false)
	})
	t.Run("inbound from an outside peer", func(t *testing.T) { outsidePeerIsDenied(t, n) })
	t.Run("proxies", func(t *testing.T) { proxiesLeadToMembersOnly(t, n) })
}

// Breaks when the tunnel address answers on a port that is not declared, or to an outside peer on one that is not exposed, or when
// the member passes on what is not for its own tunnel address: to its loopback, its pod's address, the node, the API server, the
// cloud's metadata, another member.
func inboundIsDenied(t *testing.T, n *invTenant, a *attacker, mine []netip.Addr, outside bool) {
	t.Helper()
	own := n.addresses(n.web[0].Name)
	from := func(to netip.Addr) netip.AddrPort {
		for _, m := range mine {
			if m.Is4() == to.Is4() {
				return netip.AddrPortFrom(m, 41000)
			}
		}
		t.Fatalf("no address to reach %s from", to)
		return netip.AddrPort{}
	}
	for _, to := range own {
		if got := a.syn(from(to), netip.AddrPortFrom(to, invWebPort), kit.Deadline); got != "SYN-ACK" {
			t.Fatalf("the declared port of %s: %q, want SYN-ACK: the test shows nothing", to, got)
		}
		if got := a.syn(from(to), netip.AddrPortFrom(to, invMemberPort), kit.Deadline); (got == "SYN-ACK") == outside {
			t.Errorf("port %d of %s, which is declared and not exposed, answers %q; asked from outside: %t", invMemberPort, to, got, outside)
		}
		for _, port := range []uint16{invHiddenPort, invSOCKSPort, invHTTPPort, injector.HealthPort, injector.ListenPort, 80, 22, 443, 10250} {
			if got := a.syn(from(to), netip.AddrPortFrom(to, port), 600*time.Millisecond); got == "SYN-ACK" {
				t.Errorf("port %d of %s, which is not declared, answers", port, to)
			}
		}
	}
	for _, to := range append(invForbidden(t, n), n.addresses(n.web[1].Name)...) {
		for _, port := range []uint16{invWebPort, invHiddenPort, 443} {
			if got := a.syn(from(to), netip.AddrPortFrom(to, port), 300*time.Millisecond); got != "" {
				t.Errorf("a packet through the tunnel to %s:%d: %s", to, port, got)
			}
		}
	}
}

// invForbidden are addresses that are nobody's business: loopback in all its spellings, the pod's, the node's, the cluster's and the
// cloud's.
func invForbidden(t *testing.T, n *invTenant) []netip.Addr {
	t.Helper()
	var api, dns corev1.Service
	if err := n.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &api); err != nil {
		t.Fatal(err)
	}
	if err := n.Get(t.Context(), client.ObjectKey{Namespace: kit.SystemNamespace, Name: "tenantwire-coordinator"}, &dns); err != nil {
		t.Fatal(err)
	}
	out := []netip.Addr{netip.MustParseAddr(api.Spec.ClusterIP), netip.MustParseAddr(dns.Spec.ClusterIP),
		netip.MustParseAddr(n.web[0].Status.PodIP), netip.MustParseAddr(n.web[0].Status.HostIP)}
	for _, s := range []string{"127.0.0.1", "127.77.0.1", "127.255.255.254", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255",
		"::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::", "64:ff9b::7f00:1", "fe80::1", "ff02::1", "fd00:ec2::254"} {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// Breaks when an outside peer gets more than what is exposed.
func outsidePeerIsDenied(t *testing.T, n *invTenant) {
	device := key.NewPrivate()
	p := &v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "laptop"}}
	p.Spec.Tunnel, p.Spec.PublicKey = "main", device.Public().String()
	mine := []netip.Addr{netip.MustParseAddr("10.99.0.7"), netip.MustParseAddr("fd99::7")}
	p.Spec.Routes = []string{mine[0].String() + "/32", mine[1].String() + "/128"}
	n.Create(p)
	target := n.Member(n.web[0].Name)
	peer, err := key.ParsePublic(target.Status.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	a := newAttacker(t, invNetns(t, n.client), device, peer, target.Status.Endpoint)
	if !a.handshaken(kit.Deadline) {
		t.Fatal("the member does not answer the outside peer's handshake: the test shows nothing")
	}
	inboundIsDenied(t, n, a, mine, true)
}

// Breaks when a proxy dials what no member owns, however it is spelled.
func proxiesLeadToMembersOnly(t *testing.T, n *invTenant) {
	ns := invNetns(t, n.client)
	own := n.addresses(n.web[0].Name)[0]
	if code, conn := invSOCKS(t, ns, invSOCKSNumber(own, invWebPort)); code != 0 { // the controls
		t.Fatalf("SOCKS5 to a member: code %d: the test shows nothing", code)
	} else {
		_ = conn.Close()
	}
	if status, conn := invCONNECT(t, ns, netip.AddrPortFrom(own, invWebPort).String()); status != http.StatusOK {
		t.Fatalf("CONNECT to a member: %d: the test shows nothing", status)
	} else {
		_ = conn.Close()
	}
	if c, err := invDial(ns, "tcp", fmt.Sprintf("127.0.0.1:%d", invHiddenPort)); err != nil {
		t.Fatalf("the client's own loopback server: %v: the test shows nothing", err)
	} else {
		_ = c.Close()
	}
	ports := []uint16{invHiddenPort, invWebPort, 80, 443, 10250, injector.HealthPort}
	refused := func(how, to string, ok bool, c net.Conn) {
		if ok {
			_ = c.Close()
			t.Errorf("%s to %s is open", how, to)
		}
	}
	for _, a := range invForbidden(t, n) {
		for _, port := range ports {
			to := netip.AddrPortFrom(a, port).String()
			code, c := invSOCKS(t, ns, invSOCKSNumber(a, port))
			refused("SOCKS5", to, code == 0, c)
			code, c = invSOCKS(t, ns, invSOCKSName(a.String(), port))
			refused("SOCKS5 by name", to, code == 0, c)
			status, c := invCONNECT(t, ns, to)
			refused("CONNECT", to, status == http.StatusOK, c)
		}
	}
	for _, host := range []string{"localhost", "localhost.", "LOCALHOST", "web.localhost", "0", "127.1", "127.0.1", "2130706433", "0x7f000001",
		"0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "127.000.000.001", "[::1]", "[::ffff:127.0.0.1]", "::1%lo", "[::1%25lo]",
		"169.254.169.254.", "2852039166", "0xa9fea9fe", "metadata.google.internal", "kubernetes", "kubernetes.default.svc.cluster.local",
		"127.0.0.1\x00web", "web\x00", "web@127.0.0.1", "web:80@127.0.0.1", "127.0.0.1#web", "\uff11\uff12\uff17.0.0.1", "ip6-localhost", n.web[0].Name, ""} {
		for _, port := range ports {
			if len(host) > 0 {
				code, c := invSOCKS(t, ns, invSOCKSName(host, port))
				refused("SOCKS5 by name", fmt.Sprintf("%q:%d", host, port), code == 0, c)
			}
			if !strings.ContainsRune(host, 0) {
				status, c := invCONNECT(t, ns, host+":"+strconv.Itoa(int(port)))
				refused("CONNECT", fmt.Sprintf("%q:%d", host, port), status == http.StatusOK, c)
			}
		}
	}
	// Nobody got through meanwhile either: no connection to a forbidden place was made and cut.
	text, err := n.Fetch(t.Context(), n.Name, "client", injector.HealthPort, "metrics")
	if err != nil || !strings.Contains(text, `reason="NotAllowed"`) {
		t.Errorf("the client's metrics count no refusals: %v", err)
	}
}
