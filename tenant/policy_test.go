package tenant

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func (s source) policy() *v1alpha1.Policy {
	if s.Intn(4) == 0 {
		return nil
	}
	return &v1alpha1.Policy{Inbound: some(s, 4, func() (r v1alpha1.InboundRule) {
		r.Peers, r.Services, r.Ports = s.selector(), some(s, 2, s.name), some(s, 1, s.apiPort)
		return r
	})}
}

func (s source) labels() map[string]string {
	return pick(s, nil, map[string]string{"team": "a"}, map[string]string{"team": "b"}, map[string]string{"team": "b", "env": "prod"}, map[string]string{"env": ""})
}

func (s source) selector() (out v1alpha1.PeerSelector) {
	if s.Intn(3) == 0 {
		out.MatchLabels = map[string]v1alpha1.LabelValue{"team": pick(s, v1alpha1.LabelValue("a"), "b", "c", "c d")}
	}
	out.MatchExpressions = some(s, 2, func() v1alpha1.PeerRequirement {
		r := v1alpha1.PeerRequirement{Key: pick(s, "team", "env"), Operator: pick(s, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn,
			metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist, "Like")}
		if r.Operator == metav1.LabelSelectorOpIn || r.Operator == metav1.LabelSelectorOpNotIn {
			r.Values = pick(s, []v1alpha1.LabelValue{"a"}, []v1alpha1.LabelValue{"a", "prod"}, nil)
		}
		return r
	})
	return out
}

// matches is what a selector means, told without the library.
func matches(s v1alpha1.PeerSelector, labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if got, ok := labels[k]; !ok || got != string(v) || strings.Contains(string(v), " ") {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		got, ok := labels[e.Key]
		in := ok && slices.Contains(e.Values, v1alpha1.LabelValue(got))
		switch {
		case e.Operator == metav1.LabelSelectorOpIn && in,
			e.Operator == metav1.LabelSelectorOpNotIn && !in && len(e.Values) > 0,
			e.Operator == metav1.LabelSelectorOpExists && ok,
			e.Operator == metav1.LabelSelectorOpDoesNotExist && !ok:
		default:
			return false
		}
	}
	return !strings.Contains(string(s.MatchLabels["team"]), " ") &&
		!slices.ContainsFunc(s.MatchExpressions, func(e v1alpha1.PeerRequirement) bool { return e.Operator == "Like" })
}

// route is one port of a Service and where it leads.
type route struct {
	service string
	port    v1alpha1.Port
	target  int32
	members []string
}

// policyState is a tunnel with peers, of which some take no part, and Services on few ports, so that some lead to the same one.
func (s source) policyState() (State, []route) {
	t := tunnelWith("t", "fd00:1:2:3::/64", "10.77.0.0/24")
	t.Spec.Gateway = pick(s, nil, &v1alpha1.Gateway{})
	st := State{Tunnel: t, Now: time.Unix(1000, 0)}
	for i := range 4 {
		m := v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: fmt.Sprint("m", i)}, Spec: v1alpha1.TunnelMemberSpec{
			Tunnel: t.Name, PodUID: fmt.Sprint("uid-", i), Addresses: []string{fmt.Sprintf("fd00:1:2:3::1:%d", i)}, Ports: []v1alpha1.Port{{Port: 9090}}}}
		m.Status.PublicKey, m.Status.Endpoint = key.Public{1, byte(i)}.String(), "10.0.0.1:51820"
		st.Members = append(st.Members, m)
	}
	for i := range s.Intn(7) {
		p := v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: fmt.Sprint("p", i), Labels: s.labels()}, Spec: v1alpha1.TunnelPeerSpec{
			Tunnel: pick(s, t.Name, t.Name, t.Name, "other"), PublicKey: key.Public{2, byte(i)}.String(), Routes: []string{fmt.Sprintf("192.168.%d.0/24", i)}}}
		p.Spec.Addresses = pick(s, nil, []string{fmt.Sprintf("fd00:1:2:3::%d", i+2)})
		p.Spec.State = pick(s, v1alpha1.PeerActive, v1alpha1.PeerActive, v1alpha1.PeerSuspended)
		st.Peers = append(st.Peers, p)
	}
	var routes []route
	for i := range 4 {
		svc := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: fmt.Sprint("x", i)}}
		slice := discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}}
		r := route{service: svc.Name}
		for _, m := range st.Members {
			if s.Intn(2) == 0 {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: m.Name, UID: types.UID(m.Spec.PodUID)}})
				r.members = append(r.members, m.Name)
			}
		}
		exposed := s.Intn(5) > 0
		if exposed {
			t.Spec.Expose = append(t.Spec.Expose, v1alpha1.ExposedService{Service: svc.Name})
		}
		for j := range 1 + s.Intn(2) {
			name, protocol := fmt.Sprint("port-", j), pick(s, v1alpha1.TCP, v1alpha1.UDP)
			r.port, r.target = v1alpha1.Port{Port: int32(80 + j), Protocol: protocol}, pick(s, int32(8080), 8081)
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: name, Port: r.port.Port, Protocol: corev1.Protocol(protocol)})
			target, p := r.target, corev1.Protocol(protocol)
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &target, Protocol: &p})
			if exposed {
				routes = append(routes, r)
			}
		}
		st.Services, st.EndpointSlices = append(st.Services, svc), append(st.EndpointSlices, slice)
	}
	if s.Intn(5) > 0 {
		t.Spec.Policy = &v1alpha1.Policy{Inbound: some(s, 4, func() (r v1alpha1.InboundRule) {
			r.Peers = s.selector()
			r.Services = some(s, 2, func() string { return fmt.Sprint("x", s.Intn(4)) })
			r.Ports = some(s, 1, func() v1alpha1.Port {
				return v1alpha1.Port{Port: int32(80 + s.Intn(2)), Protocol: pick(s, v1alpha1.TCP, v1alpha1.UDP, "")}
			})
			return r
		})}
	}
	return st, routes
}

// allowed says what spec.policy means for one peer, one member and one of its ports.
func allowed(st State, routes []route, p *v1alpha1.TunnelPeer, member string, port wire.Port) bool {
	if p.Spec.Tunnel != st.Tunnel.Name || p.Spec.State == v1alpha1.PeerSuspended {
		return false
	}
	for _, r := range routes {
		if r.target != int32(port.Port) || wire.Protocol(r.port.Protocol) != port.Protocol || !slices.Contains(r.members, member) {
			continue
		}
		if r.grantedTo(st.Tunnel.Spec.Policy, p) {
			return true
		}
	}
	return false
}

// grantedTo says the same of a Service's port.
func (r route) grantedTo(policy *v1alpha1.Policy, p *v1alpha1.TunnelPeer) bool {
	return policy == nil || slices.ContainsFunc(policy.Inbound, func(rule v1alpha1.InboundRule) bool {
		named := len(rule.Services) == 0 || slices.Contains(rule.Services, r.service)
		numbered := len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(n v1alpha1.Port) bool {
			return n.Port == r.port.Port && (n.Protocol == r.port.Protocol || n.Protocol == "" && r.port.Protocol == v1alpha1.TCP)
		})
		return named && numbered && matches(rule.Peers, p.Labels)
	})
}

// toldOfService says what a gateway's configuration means for an address at a Service's own.
func toldOfService(cfg wire.Config, src netip.Addr, r route) bool {
	id := wire.ServiceID{Name: r.service, Port: uint16(r.port.Port), Protocol: wire.Protocol(r.port.Protocol)}
	i := slices.IndexFunc(cfg.Published, func(p wire.Published) bool { return p.ServiceID == id })
	known := slices.ContainsFunc(cfg.Peers, func(p wire.Peer) bool {
		return p.Outside && slices.ContainsFunc(p.AllowedIPs, func(r netip.Prefix) bool { return r.Contains(src) })
	})
	return i >= 0 && known && (cfg.Published[i].Everyone || slices.ContainsFunc(cfg.Grants, func(g wire.Grant) bool {
		return slices.Contains(g.Services, id) && slices.ContainsFunc(g.Sources, func(r netip.Prefix) bool { return r.Contains(src) })
	}))
}

// told says what a member's configuration means for an address.
func told(cfg wire.Config, src netip.Addr, port wire.Port) bool {
	known := slices.ContainsFunc(cfg.Peers, func(p wire.Peer) bool {
		return p.Outside && slices.ContainsFunc(p.AllowedIPs, func(r netip.Prefix) bool { return r.Contains(src) })
	})
	return known && (slices.Contains(cfg.Granted, port) || slices.ContainsFunc(cfg.Grants, func(g wire.Grant) bool {
		return slices.Contains(g.Ports, port) && slices.ContainsFunc(g.Sources, func(r netip.Prefix) bool { return r.Contains(src) })
	}))
}

// Whatever peers, labels, Services and rules there are, members let in those and only those that the policy says.
func TestPolicyMeansWhatItSays(t *testing.T) {
	granted, denied, services := 0, 0, map[bool]int{}
	for seed := range int64(3000) {
		s := source{rand.New(rand.NewSource(seed))} //nolint:gosec // a test wants to be repeatable
		st, routes := s.policyState()
		if g := st.Tunnel.Spec.Gateway; g != nil {
			gateway := v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: st.Tunnel.Namespace, Name: "gateway"}, Spec: v1alpha1.TunnelMemberSpec{
				Tunnel: st.Tunnel.Name, Role: v1alpha1.RoleGateway, PodUID: "g", Addresses: []string{"fd00:1:2:3::1:99"}}}
			gateway.Status.PublicKey, gateway.Status.Endpoint = key.Public{3}.String(), "10.0.0.1:51820"
			st.Members = append(st.Members, gateway)
		}
		for i, e := range st.Tunnel.Spec.Expose {
			st.Tunnel.Status.Services = append(st.Tunnel.Status.Services, v1alpha1.ServiceAddresses{Service: e.Service, Addresses: []string{fmt.Sprintf("fd00:1:2:3:a::%d", i+1)}})
		}
		n := NewNetwork(st)
		if hub, ok := n.Config("gateway"); ok {
			if err := hub.Validate(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for i := range st.Peers {
				p := &st.Peers[i]
				for _, r := range routes {
					want := p.Spec.Tunnel == st.Tunnel.Name && p.Spec.State != v1alpha1.PeerSuspended && r.grantedTo(st.Tunnel.Spec.Policy, p)
					if got := toldOfService(hub, netip.MustParseAddr(fmt.Sprintf("192.168.%d.7", i)), r); got != want {
						t.Fatalf("seed %d: %+v for %v: %t, want %t by %+v", seed, r, p.Labels, got, want, st.Tunnel.Spec.Policy)
					}
					services[want]++
				}
			}
		}
		for _, m := range st.Members[:4] {
			cfg, _ := n.Config(m.Name)
			if err := cfg.Validate(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for i := range st.Peers {
				p := &st.Peers[i]
				for _, port := range []wire.Port{{Port: 8080, Protocol: wire.TCP}, {Port: 8080, Protocol: wire.UDP}, {Port: 8081, Protocol: wire.TCP}, {Port: 80, Protocol: wire.TCP}, {Port: 9090, Protocol: wire.TCP}} {
					want := allowed(st, routes, p, m.Name, port)
					for _, src := range append([]string{fmt.Sprintf("192.168.%d.7", i)}, p.Spec.Addresses...) {
						if got := told(cfg, netip.MustParseAddr(src), port); got != want {
							t.Fatalf("seed %d: %s of %s from %s with %v: %t, want %t by %+v", seed, port, m.Name, src, p.Labels, got, want, st.Tunnel.Spec.Policy)
						}
					}
					if want {
						granted++
					} else {
						denied++
					}
				}
			}
			if st.Tunnel.Spec.Policy == nil && cfg.Grants != nil {
				t.Fatalf("seed %d: grants without a policy", seed)
			}
			for _, g := range cfg.Grants {
				for _, p := range g.Ports {
					if slices.Contains(cfg.Granted, p) || !slices.Contains(cfg.Inbound, p) {
						t.Fatalf("seed %d: %s is granted to all or not accepted at all, and granted to some", seed, p)
					}
				}
			}
		}
	}
	if granted < 5000 || denied < 5000 || services[true] < 3000 || services[false] < 3000 {
		t.Errorf("%d granted, %d denied, of Services %v: too few to show anything", granted, denied, services)
	}
}

// The tunnel says what is idle in its policy.
func TestPolicyRemarks(t *testing.T) {
	peers := func(team v1alpha1.LabelValue) v1alpha1.InboundRule {
		return v1alpha1.InboundRule{Peers: v1alpha1.PeerSelector{MatchLabels: map[string]v1alpha1.LabelValue{"team": team}}}
	}
	tunnel := tunnelWith("t", "", "")
	office := v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: tunnel.Namespace, Name: "office", Labels: map[string]string{"team": "a"}},
		Spec: v1alpha1.TunnelPeerSpec{Tunnel: tunnel.Name, PublicKey: key.Public{1}.String(), Routes: []string{"192.168.1.0/24"}}}
	for want, rules := range map[string][]v1alpha1.InboundRule{
		"the tunnel is valid": {peers("a"), {}},
		"the tunnel is valid; no accepted TunnelPeer is picked by spec.policy.inbound[1]":                           {peers("a"), peers("b")},
		"the tunnel is valid; spec.policy.inbound[0].peers: ":                                                       {peers("a b")},
		"the tunnel is valid; spec.policy.inbound[0].ports: 0/TCP is not a TCP or UDP port; no accepted TunnelPeer": {{Ports: []v1alpha1.Port{{Protocol: v1alpha1.TCP}}}},
	} {
		tunnel.Spec.Policy = &v1alpha1.Policy{Inbound: rules}
		d := DecideTunnel(tunnel, []v1alpha1.TunnelPeer{office}, nil, time.Now())
		if d.Reason != ReasonAccepted || !strings.HasPrefix(d.Message, want) || want == "the tunnel is valid" && d.Message != want {
			t.Errorf("%+v, want %q", d, want)
		}
		if got := Remarks(d.Message); got != strings.TrimPrefix(strings.TrimPrefix(d.Message, "the tunnel is valid"), "; ") {
			t.Errorf("remarks of %q are %q", d.Message, got)
		}
	}
}

func BenchmarkNetworkWithPolicy(b *testing.B) {
	st := State{Tunnel: tunnelWith("t", "", "10.0.0.0/16"), Now: time.Unix(1000, 0)}
	slices64 := make([]discoveryv1.EndpointSlice, 64)
	for i := range 1000 {
		m := v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: st.Tunnel.Namespace, Name: fmt.Sprint("m", i)}, Spec: v1alpha1.TunnelMemberSpec{
			Tunnel: st.Tunnel.Name, PodUID: fmt.Sprint(i), Addresses: []string{fmt.Sprintf("10.0.%d.%d", i/250, 1+i%250)}}}
		m.Status.PublicKey, m.Status.Endpoint = key.Public{1, byte(i), byte(i >> 8)}.String(), "10.1.0.1:51820"
		st.Members = append(st.Members, m)
		e := &slices64[i%64]
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: m.Name, UID: types.UID(m.Spec.PodUID)}})
		st.Peers = append(st.Peers, v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: st.Tunnel.Namespace, Name: fmt.Sprint("p", i), Labels: map[string]string{"team": fmt.Sprint(i % 32)}},
			Spec: v1alpha1.TunnelPeerSpec{Tunnel: st.Tunnel.Name, PublicKey: key.Public{2, byte(i), byte(i >> 8)}.String(), Routes: []string{fmt.Sprintf("192.%d.%d.0/24", i/250, i%250)}}})
	}
	for i := range slices64 {
		name, port := fmt.Sprint("svc-", i), int32(8080)
		slices64[i].ObjectMeta = metav1.ObjectMeta{Namespace: st.Tunnel.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: name}}
		slices64[i].Ports = []discoveryv1.EndpointPort{{Port: &port}}
		st.Services = append(st.Services, corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: st.Tunnel.Namespace, Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
		st.Tunnel.Spec.Expose = append(st.Tunnel.Spec.Expose, v1alpha1.ExposedService{Service: name})
	}
	st.EndpointSlices = slices64
	for _, policy := range []*v1alpha1.Policy{nil, {}} {
		for i := 0; policy != nil && i < v1alpha1.MaxInboundRules; i++ {
			policy.Inbound = append(policy.Inbound, v1alpha1.InboundRule{Services: []string{fmt.Sprint("svc-", i)},
				Peers: v1alpha1.PeerSelector{MatchLabels: map[string]v1alpha1.LabelValue{"team": v1alpha1.LabelValue(fmt.Sprint(i))}}})
		}
		st.Tunnel.Spec.Policy = policy
		b.Run(fmt.Sprintf("members=1000,peers=1000,policy=%t", policy != nil), func(b *testing.B) {
			for b.Loop() {
				NewNetwork(st)
			}
		})
	}
}
