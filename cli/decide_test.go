package cli

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func testTunnel(name string) v1alpha1.TenantTunnel {
	return v1alpha1.TenantTunnel{
		ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: name},
		Spec:       v1alpha1.TenantTunnelSpec{Gateway: &v1alpha1.Gateway{}},
		Status: v1alpha1.TenantTunnelStatus{
			Gateway:    &v1alpha1.GatewayStatus{PublicKey: testGateway},
			Addressing: &v1alpha1.AddressingStatus{IPv6Prefix: "fd12:3456:789a:1::/64", IPv4Pool: "10.77.0.0/24"},
		},
	}
}

func testJoining() *joining {
	return &joining{addition: &addition{name: "laptop", tunnel: "net", public: need(key.ParsePublic(testPublic)), keepalive: 25}, private: need(key.ParsePrivate(testPrivate))}
}

// enough is what a config can be made of.
func enough() *seen {
	return &seen{
		peer: testPeer("laptop", func(p *v1alpha1.TunnelPeer) {
			p.Status = v1alpha1.TunnelPeerStatus{Addresses: []string{"10.77.0.254", "fd12:3456:789a:1::7"},
				Conditions: []metav1.Condition{condition("Accepted", metav1.ConditionTrue, "Accepted", "the peer is part of the tunnel")}}
		}),
		tunnel: testTunnel("net"),
		entry:  entry{"tenantwire-gateway-net", gatewayService(corev1.ServiceTypeLoadBalancer, ingress("", "203.0.113.7")), nil},
	}
}

func TestDecide(t *testing.T) {
	accept := func(status metav1.ConditionStatus, reason, message string) func(*joining, *seen) {
		return func(_ *joining, s *seen) {
			s.peer.Status.Conditions = []metav1.Condition{condition("Accepted", status, reason, message)}
		}
	}
	for name, c := range map[string]struct {
		change               func(*joining, *seen)
		config, waits, fails string // parts
		note                 string
	}{
		"everything there":   {config: "Endpoint = 203.0.113.7:51820\nAllowedIPs = fd12:3456:789a:1::/64, 10.77.0.0/24\nPersistentKeepalive = 25\n", note: "peer laptop (10.77.0.254, fd12:3456:789a:1::7): the peer is part of the tunnel"},
		"no status yet":      {change: func(_ *joining, s *seen) { s.peer.Status = v1alpha1.TunnelPeerStatus{} }, waits: "operator"},
		"a status of before": {change: func(_ *joining, s *seen) { s.peer.Generation = 2 }, waits: "operator"},
		"refused":            {change: accept(metav1.ConditionFalse, "RouteOverlap", "spec.routes: overlap"), fails: "not accepted (RouteOverlap): spec.routes: overlap"},
		"the tunnel is new":  {change: accept(metav1.ConditionFalse, "TunnelNotFound", ""), waits: "tunnel net"},
		"not addressed yet":  {change: func(_ *joining, s *seen) { s.peer.Status.Addresses = nil }, waits: "addresses of peer laptop"},
		"only routes": {change: func(_ *joining, s *seen) {
			s.peer.Status.Addresses, s.peer.Spec.Routes = nil, []string{"192.168.10.0/24"}
		}, config: "[Interface]\nPrivateKey = " + testPrivate + "\n\n", note: "no Address"},
		"no endpoint yet":           {change: func(_ *joining, s *seen) { s.entry.service = nil }, waits: "Service tenantwire-gateway-net"},
		"an endpoint that was said": {change: func(j *joining, s *seen) { s.entry, j.endpoint = entry{}, "vpn.example.com:1" }, config: "Endpoint = vpn.example.com:1\n"},
		"an endpoint with a limit":  {change: func(_ *joining, s *seen) { s.entry.service = gatewayService(corev1.ServiceTypeClusterIP, nil) }, config: "Endpoint = 10.96.7.7:51820\n", note: "inside the cluster"},
		"no gateway key yet": {change: func(_ *joining, s *seen) {
			s.tunnel.Status.Gateway = nil
			s.tunnel.Status.Conditions = []metav1.Condition{condition("Ready", metav1.ConditionFalse, "GatewayNotReady", "no pod is active")}
		}, waits: "public key of the gateway of tunnel net (GatewayNotReady: no pod is active)"},
		"the tunnel's MTU": {change: func(_ *joining, s *seen) { s.tunnel.Spec.MTU = ptr.To[int32](1340) }, config: "MTU = 1340\n"},
		"its own MTU":      {change: func(j *joining, s *seen) { s.tunnel.Spec.MTU, j.mtu = ptr.To[int32](1340), 1280 }, config: "MTU = 1280\n"},
		"more ranges": {change: func(j *joining, s *seen) {
			s.tunnel.Status.Addressing.IPv4Pool, j.allow = "", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}, config: "AllowedIPs = fd12:3456:789a:1::/64, 10.0.0.0/8\n"},
		"an own key":           {change: func(j *joining, _ *seen) { j.private = key.Private{} }, config: "# PrivateKey = the one whose public key is " + testPublic, note: "no PrivateKey"},
		"a preshared key":      {change: func(j *joining, _ *seen) { j.preshared, j.psk = true, need(key.ParsePreshared(testPreshared)) }, config: "PresharedKey = " + testPreshared, note: "two minutes"},
		"it expires":           {change: func(j *joining, _ *seen) { j.expires = testNow }, config: "# It expires at 2026-11-26T12:00:00Z.\n"},
		"an older operator":    {change: func(_ *joining, s *seen) { s.tunnel.Status.Addressing = nil }, fails: "status.addressing"},
		"a status of nonsense": {change: func(_ *joining, s *seen) { s.peer.Status.Addresses = []string{"x\nPostUp = y"} }, fails: "status.addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			j, s := testJoining(), enough()
			if c.change != nil {
				c.change(j, s)
			}
			o, waits, err := j.decide(s)
			if (c.config != "") != (o != nil) || (c.waits != "") != (waits != "") || (c.fails != "") != (err != nil) || !strings.Contains(waits, c.waits) {
				t.Fatalf("%v, waits for %q, %v", o, waits, err)
			}
			if err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Error(err)
			}
			if o == nil {
				return
			}
			if text := string(o.config.text()); !strings.Contains(text, c.config) {
				t.Errorf("config %s", text)
			}
			if notes := strings.Join(o.notes, "\n"); !strings.Contains(notes, c.note) || strings.Contains(notes, testPrivate) || strings.Contains(notes, testPreshared) {
				t.Errorf("notes %s", notes)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	one, two := testTunnel("a"), testTunnel("b")
	for _, c := range []struct {
		all        []v1alpha1.TenantTunnel
		name, want string
		fails      string
	}{
		{[]v1alpha1.TenantTunnel{one}, "", "a", ""},
		{[]v1alpha1.TenantTunnel{one, two}, "b", "b", ""},
		{nil, "", "", "namespace acme has no TenantTunnel"},
		{nil, "a", "", "namespace acme has no TenantTunnel"},
		{[]v1alpha1.TenantTunnel{one, two}, "", "", "2 TenantTunnels (a, b): say which with --tunnel"},
		{[]v1alpha1.TenantTunnel{one, two}, "c", "", `no TenantTunnel "c"; it has a, b`},
	} {
		got, err := choose(c.all, c.name, "acme")
		if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) || err == nil && got.Name != c.want {
			t.Errorf("%d tunnels, %q: %v, %v", len(c.all), c.name, got, err)
		}
	}
}

// A preshared key goes with the last peer that uses it.
func TestEntryOf(t *testing.T) {
	with := func(name, tunnel, entry string) v1alpha1.TunnelPeer {
		return testPeer(name, func(p *v1alpha1.TunnelPeer) {
			p.Spec.Tunnel = tunnel
			if entry != "" {
				p.Spec.PresharedKey = &v1alpha1.PresharedKey{SecretKey: entry}
			}
		})
	}
	all := []v1alpha1.TunnelPeer{with("none", "net", ""), with("own", "net", "own"), with("elsewhere", "other", "own"), with("first", "net", "shared"), with("second", "net", "shared")}
	for _, c := range []struct {
		gone []v1alpha1.TunnelPeer
		want []string
	}{
		{all[:1], []string{""}}, {all[1:2], []string{"own"}}, {all[3:4], []string{""}}, {all[3:5], []string{"shared", "shared"}},
	} {
		for i := range c.gone {
			if got := entryOf(all, c.gone, &c.gone[i]); got != c.want[i] {
				t.Errorf("%s of %d: %q, want %q", c.gone[i].Name, len(c.gone), got, c.want[i])
			}
		}
	}
}
