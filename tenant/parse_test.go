package tenant

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// FuzzParsePeer: what is taken of a TunnelPeer can be given to a device as it is, has all that was written, each range once, and what is
// seen in place of what is mapped. Whatever was refused leaves nothing.
func FuzzParsePeer(f *testing.F) {
	good := key.Public{2, 7}.String()
	f.Add(good, "203.0.113.7:51820", "branch", int32(25), "192.168.10.0/24 fd77::/64", "192.168.10.0/24=10.9.1.0/24")
	f.Add(good, "vpn.example.com:51820", "", int32(0), "10.1.0.0/16 10.2.0.0/16", "10.1.0.0/16=10.2.0.0/16 10.2.0.0/16=10.1.0.0/16")
	f.Add(good, "[2001:db8::7]:51820", "", int32(0), "10.1.0.0/16 10.1.2.0/24", "")
	f.Add(good, "127.0.0.1:1", "../key", int32(-1), "0.0.0.0/0 ::/0", "0.0.0.0/0=::/0")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "::ffff:10.0.0.1:80", "", int32(70000), "10.1.2.3/8", "10.0.0.0/8=10.0.0.0/8 10.0.0.0/8=11.0.0.0/8")
	f.Add(good, "", "", int32(0), "10.0.0.0/8", "10.0.0.0/8=11.0.0.0/8 10.0.0.0/8=12.0.0.0/8")
	f.Add(good, "", "", int32(0), "10.1.2.3/8", "")
	f.Fuzz(func(t *testing.T, public, endpoint, preshared string, keepalive int32, routes, mappings string) {
		in := &v1alpha1.TunnelPeer{Spec: v1alpha1.TunnelPeerSpec{PublicKey: public, Endpoint: endpoint, KeepaliveSeconds: keepalive, Routes: strings.Fields(routes)}}
		if preshared != "" {
			in.Spec.PresharedKey = &v1alpha1.PresharedKey{SecretKey: preshared}
		}
		for word := range strings.FieldsSeq(mappings) {
			real, seen, _ := strings.Cut(word, "=")
			in.Spec.Mappings = append(in.Spec.Mappings, v1alpha1.RouteMapping{Route: real, MapTo: seen})
		}
		p, err := parsePeer(in)
		if err != nil {
			if p != nil {
				t.Fatalf("refused (%v), and %+v all the same", err, p)
			}
			return
		}
		if p.key.IsZero() || p.key.String() != public {
			t.Errorf("key %s of %q", p.key, public)
		}
		if p.keepalive != int(keepalive) || p.keepalive < 0 || p.keepalive > 65535 || p.preshared != preshared {
			t.Errorf("keepalive %d, preshared key %q", p.keepalive, p.preshared)
		}
		parsedEndpoint(t, endpoint, p.endpoint, p.endpointName)
		if len(p.routes) != len(in.Spec.Routes) || len(p.mappings) != len(in.Spec.Mappings) {
			t.Fatalf("%v mapped %v of %q mapped %q", p.routes, p.mappings, routes, mappings)
		}
		for i, r := range p.routes {
			if !r.IsValid() || r != r.Masked() || r.Addr().Is4In6() || r.Addr().IsLoopback() || r.Addr().IsLinkLocalUnicast() || r.Addr().IsMulticast() {
				t.Errorf("route %s", r)
			}
			if slices.ContainsFunc(p.routes[:i], r.Overlaps) {
				t.Errorf("%s overlaps another of %v", r, p.routes)
			}
			mapped := slices.ContainsFunc(p.mappings, func(m wire.Mapping) bool { return m.Seen == r })
			if !mapped && !slices.Contains(in.Spec.Routes, r.String()) && !slices.ContainsFunc(in.Spec.Routes, func(s string) bool { return netip.MustParsePrefix(s) == r }) {
				t.Errorf("nobody wrote %s in %q", r, routes)
			}
		}
		for i, m := range p.mappings {
			if err := datapath.Mapping(m).Validate(); err != nil || !slices.Contains(p.routes, m.Seen) || i > 0 && p.mappings[i-1].Real.Compare(m.Real) >= 0 {
				t.Errorf("mapping %v of %v, routes %v: %v", m, p.mappings, p.routes, err)
			}
		}
	})
}

// parsedEndpoint wants one of an address and a name, or neither of nothing, and that it says what was written.
func parsedEndpoint(t *testing.T, text string, at netip.AddrPort, name string) {
	t.Helper()
	switch {
	case text == "":
		if at.IsValid() || name != "" {
			t.Errorf("an endpoint %s %q of nothing", at, name)
		}
	case at.IsValid() == (name != ""):
		t.Errorf("%q is the address %s and the name %q", text, at, name)
	case name != "":
		if _, _, err := wire.SplitEndpointName(name); err != nil || name != text {
			t.Errorf("%q is the name %q: %v", text, name, err)
		}
	default:
		if again, other, err := ParseEndpoint(at.String()); err != nil || again != at || other != "" {
			t.Errorf("%s of %q is %s %q: %v", at, text, again, other, err)
		}
		if a := at.Addr(); at.Port() == 0 || !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "" {
			t.Errorf("%q leads to %s", text, at)
		}
	}
}

// FuzzParseRule: a rule that is refused picks nobody and grants nobody anything, or a slip of the pen would open what it was to shut. One that
// is taken picks whom Kubernetes would.
func FuzzParseRule(f *testing.F) {
	f.Add(int32(80), "TCP", "team", "a", "env", "In", "prod,test", "team=a,env=prod")
	f.Add(int32(53), "UDP", "", "", "env", "Exists", "", "env=")
	f.Add(int32(0), "tcp", "team", "a b", "env", "DoesNotExist", "x", "")
	f.Add(int32(65536), "", "-", "", "", "", "", "team=a")
	f.Add(int32(443), "", "team", "a", "team", "NotIn", "a", "team=a")
	f.Fuzz(func(t *testing.T, port int32, protocol, label, value, wanted, operator, values, of string) {
		rule := v1alpha1.InboundRule{Ports: []v1alpha1.Port{{Port: port, Protocol: v1alpha1.Protocol(protocol)}}}
		selector := metav1.LabelSelector{}
		if label != "" {
			rule.Peers.MatchLabels = map[string]v1alpha1.LabelValue{label: v1alpha1.LabelValue(value)}
			selector.MatchLabels = map[string]string{label: value}
		}
		if wanted != "" {
			e := v1alpha1.PeerRequirement{Key: wanted, Operator: metav1.LabelSelectorOperator(operator)}
			same := metav1.LabelSelectorRequirement{Key: wanted, Operator: e.Operator}
			if values != "" {
				for v := range strings.SplitSeq(values, ",") {
					e.Values, same.Values = append(e.Values, v1alpha1.LabelValue(v)), append(same.Values, v)
				}
			}
			rule.Peers.MatchExpressions, selector.MatchExpressions = []v1alpha1.PeerRequirement{e}, []metav1.LabelSelectorRequirement{same}
		}
		peer := labels.Set{}
		for word := range strings.SplitSeq(of, ",") {
			if k, v, ok := strings.Cut(word, "="); ok {
				peer[k] = v
			}
		}
		p, err := newPolicy(&v1alpha1.TenantTunnel{Spec: v1alpha1.TenantTunnelSpec{Policy: &v1alpha1.Policy{Inbound: []v1alpha1.InboundRule{rule}}}})
		if p == nil || len(p.rules) != 1 {
			t.Fatalf("%+v: no rule for another's place", p)
		}
		picked := p.picks(peer) != 0
		want, invalid := metav1.LabelSelectorAsSelector(&selector)
		if err != nil {
			if picked || p.everyone != 0 {
				t.Errorf("%v, and yet it picks %v", err, peer)
			}
			if invalid == nil && port >= 1 && port <= 65535 && slices.Contains([]string{"", "TCP", "UDP"}, protocol) {
				t.Errorf("refused without a reason: %v", err)
			}
			return
		}
		if invalid != nil || picked != want.Matches(peer) || (p.everyone != 0) != want.Empty() {
			t.Errorf("picks %v: %t, everyone: %t; Kubernetes says %v, %v", peer, picked, p.everyone != 0, want, invalid)
		}
		for _, port := range p.rules[0].ports {
			if port.Port == 0 || port.Protocol != wire.TCP && port.Protocol != wire.UDP {
				t.Errorf("port %v", port)
			}
		}
	})
}
