package tenant

import (
	"fmt"
	"math/rand"
	"net/netip"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// source makes objects of which a good part contradicts another or does not parse.
type source struct{ *rand.Rand }

func pick[T any](s source, values ...T) T { return values[s.Intn(len(values))] }

func (s source) key() string {
	k := key.Public{byte(s.Intn(30)), 1}
	return pick(s, k.String(), k.String(), k.String(), k.String(), "garbage", "", key.Public{31: byte(s.Intn(2))}.String())
}

func (s source) name() string { return fmt.Sprint("x", s.Intn(12)) }

func (s source) meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: pick(s, "shop", "shop", "shop", "other"), Name: s.name(), CreationTimestamp: metav1.NewTime(time.Unix(int64(s.Intn(3)), 0))}
}

func (s source) address() string {
	return pick(s, fmt.Sprintf("fd00:1:2:3::%x", s.Intn(20)), fmt.Sprintf("10.77.0.%d", s.Intn(20)), "::1", "127.0.0.1", "10.77.0.999", "", "fd00:9::1", "::ffff:10.77.0.1",
		fmt.Sprintf("192.168.%d.1", s.Intn(4)), "fe80::1%eth0", "169.254.169.254")
}

func (s source) port() int32 { return pick(s, int32(s.Intn(6)), int32(80), 65535, 65536, -1) }

func (s source) route() string {
	return pick(s, fmt.Sprintf("192.168.%d.0/%d", s.Intn(4), 23+s.Intn(3)), "0.0.0.0/0", "::/0", "2000::/3", "10.77.0.0/24", "fd00:1:2:3::/64", "127.0.0.0/8", "x", "",
		fmt.Sprintf("172.16.%d.0/24", s.Intn(40)))
}

func some[T any](s source, most int, make func() T) (out []T) {
	for range s.Intn(most + 1) {
		out = append(out, make())
	}
	return out
}

func (s source) protocol() string { return pick(s, "TCP", "UDP", "SCTP", "") }

func (s source) apiPort() v1alpha1.Port {
	return v1alpha1.Port{Port: s.port(), Protocol: v1alpha1.Protocol(s.protocol())}
}

func (s source) endpoint() string {
	return pick(s, fmt.Sprintf("10.0.0.%d:51820", s.Intn(9)), "[2001:db8::1]:1", "10.0.0.1:0", "host:1", "", "127.0.0.1:5", "0.0.0.0:1", "[::ffff:1.2.3.4]:5")
}

func (s source) state() State {
	t := tunnelWith("t", pick(s, "fd00:1:2:3::/64", "", "garbage"), pick(s, "10.77.0.0/24", "", "10.77.0.0/99"))
	t.Spec.Expose = some(s, 5, func() v1alpha1.ExposedService { return v1alpha1.ExposedService{Service: s.name()} })
	t.Spec.Egress = some(s, 5, func() v1alpha1.EgressHost {
		return v1alpha1.EgressHost{Host: pick(s, s.name(), "db.corp", "a.db.corp", ""), Address: s.address(), Ports: some(s, 4, s.apiPort)}
	})
	t.Spec.DNS = s.dns()
	t.Spec.Gateway = pick(s, nil, &v1alpha1.Gateway{}, &v1alpha1.Gateway{Limits: s.limits()})
	t.Spec.Policy = s.policy()
	if s.Intn(2) == 0 {
		mtu := int32(1280 + s.Intn(7000))
		t.Spec.MTU = &mtu
	}
	return State{Tunnel: t, Members: some(s, 15, s.member), Peers: some(s, 10, s.peer), Services: some(s, 8, s.service), EndpointSlices: some(s, 8, s.slice)}
}

func (s source) limits() v1alpha1.GatewayLimits {
	bandwidth := pick(s, resource.MustParse("20M"), resource.MustParse("1"), resource.MustParse("-5k"), resource.MustParse("9E"), resource.MustParse("0.5"))
	return v1alpha1.GatewayLimits{BandwidthPerPeer: pick(s, nil, &bandwidth), HandshakesPerPeer: pick(s, int32(0), 60, -1, 1<<30),
		ConnectionsPerPeer: pick(s, int32(0), 1, 5000, 5001), FlowsPerPeer: pick(s, int32(0), 256, -256, 1<<30)}
}

func (s source) member() v1alpha1.TunnelMember {
	m := v1alpha1.TunnelMember{ObjectMeta: s.meta(), Spec: v1alpha1.TunnelMemberSpec{Tunnel: pick(s, "main", "main", "main", "other"), Addresses: some(s, 3, s.address), Ports: some(s, 4, s.apiPort)}}
	m.Spec.Role = pick(s, v1alpha1.RoleMember, v1alpha1.RoleMember, v1alpha1.RoleMember, v1alpha1.RoleGateway)
	m.Spec.PodUID = pick(s, "uid-"+m.Name, "uid-"+m.Name, "x", "")
	m.Status.PublicKey, m.Status.Endpoint = s.key(), s.endpoint()
	return m
}

func (s source) peer() v1alpha1.TunnelPeer {
	p := v1alpha1.TunnelPeer{ObjectMeta: s.meta(), Spec: v1alpha1.TunnelPeerSpec{Tunnel: pick(s, "main", "main", "other"), PublicKey: s.key(), Routes: some(s, 4, s.route)}}
	p.Spec.Endpoint, p.Spec.KeepaliveSeconds = s.endpoint(), pick(s, int32(0), 25, -1, 65536)
	p.Spec.Addresses, p.Status.Addresses = some(s, 2, s.address), some(s, 3, s.address)
	p.Labels = s.labels()
	p.Spec.Mappings = s.mappings(p.Spec.Routes)
	p.Spec.PresharedKey = pick(s, nil, &v1alpha1.PresharedKey{SecretKey: pick(s, "laptop", "../x", "")})
	return p
}

// mappings are of some of the routes, mostly.
func (s source) mappings(routes []string) (out []v1alpha1.RouteMapping) {
	for _, r := range routes {
		if s.Intn(3) > 0 {
			continue
		}
		to := pick(s, s.route(), fmt.Sprintf("10.200.%d.0/24", s.Intn(8)))
		if p, err := netip.ParsePrefix(r); err == nil && s.Intn(4) > 0 { // of its length
			to = netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("10.%d.%d.0", 200+s.Intn(2), 4*s.Intn(4))), min(p.Bits(), 32)).String()
		}
		out = append(out, v1alpha1.RouteMapping{Route: pick(s, r, r, r, r, s.route()), MapTo: to})
	}
	return out
}

func (s source) service() corev1.Service {
	return corev1.Service{ObjectMeta: s.meta(), Spec: corev1.ServiceSpec{Ports: some(s, 4, func() corev1.ServicePort {
		return corev1.ServicePort{Name: pick(s, "", "http"), Port: s.port(), Protocol: corev1.Protocol(s.protocol())}
	})}}
}

func (s source) slice() discoveryv1.EndpointSlice {
	boolean := func() *bool { return pick(s, nil, new(bool), func() *bool { b := true; return &b }()) }
	e := discoveryv1.EndpointSlice{ObjectMeta: s.meta(), AddressType: pick(s, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)}
	e.Labels = map[string]string{discoveryv1.LabelServiceName: s.name()}
	e.Ports = some(s, 4, func() discoveryv1.EndpointPort {
		name, number, protocol := pick(s, "", "http"), s.port(), corev1.Protocol(s.protocol())
		return discoveryv1.EndpointPort{Name: pick(s, nil, &name), Port: pick(s, nil, &number, &number), Protocol: pick(s, nil, &protocol)}
	})
	e.Endpoints = some(s, 6, func() discoveryv1.Endpoint {
		name := s.name()
		return discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: boolean(), Serving: boolean(), Terminating: boolean()},
			TargetRef: pick(s, nil, &corev1.ObjectReference{Kind: pick(s, "Pod", "Pod", "Node"), Name: name, UID: types.UID(pick(s, "uid-"+name, "uid-"+name, "x", ""))})}
	})
	return e
}

// shuffled is the same state in another order; the order of a list of names must not matter either.
func (s source) shuffled(in State) State {
	s.Shuffle(len(in.Members), reflect.Swapper(in.Members))
	s.Shuffle(len(in.Peers), reflect.Swapper(in.Peers))
	s.Shuffle(len(in.EndpointSlices), reflect.Swapper(in.EndpointSlices))
	return in
}

// Whatever the objects say: no panic, every configuration is valid, nobody is its own peer, no peer has another's address, targets
// are members' or behind peers, and the order of the objects does not matter.
func TestNetworkProperties(t *testing.T) {
	for seed := range int64(3000) {
		s := source{rand.New(rand.NewSource(seed))} //nolint:gosec // a test wants to be repeatable
		state := s.state()
		state.Members = uniqueNames(state.Members)
		n := NewNetwork(state)
		configs := map[string]wire.Config{}
		for _, m := range state.Members {
			if cfg, ok := n.Config(m.Name); ok {
				configs[m.Name] = cfg
				checkConfig(t, seed, m, cfg)
			}
		}
		again := NewNetwork(s.shuffled(state))
		for name, cfg := range configs {
			if other, _ := again.Config(name); other.Revision() != cfg.Revision() {
				t.Fatalf("seed %d: %s depends on the order of the objects", seed, name)
			}
		}
		if _, ok := n.Config("nobody"); ok {
			t.Fatalf("seed %d: a configuration for nobody", seed)
		}
	}
}

func uniqueNames(members []v1alpha1.TunnelMember) (out []v1alpha1.TunnelMember) {
	seen := map[string]bool{}
	for _, m := range members {
		if !seen[m.Name] { // one namespace's, as the API server has them
			seen[m.Name] = true
			out = append(out, m)
		}
	}
	return out
}

func checkConfig(t *testing.T, seed int64, m v1alpha1.TunnelMember, cfg wire.Config) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatalf("seed %d: %s: %v", seed, m.Name, err)
	}
	if err := checkLookups(cfg); err != nil {
		t.Fatalf("seed %d: %s: %v", seed, m.Name, err)
	}
	for _, own := range cfg.Interface.Addresses {
		for _, p := range cfg.Peers {
			for _, a := range p.Ranges() {
				if a.Overlaps(own) {
					t.Fatalf("seed %d: peer %s of %s may use its address %s", seed, p.PublicKey, m.Name, own)
				}
			}
		}
	}
	for i, p := range cfg.Peers {
		for _, q := range cfg.Peers[:i] {
			for _, a := range p.Ranges() {
				for _, b := range q.Ranges() {
					if a.Overlaps(b) {
						t.Fatalf("seed %d: %s and %s overlap: %s, %s", seed, p.PublicKey, q.PublicKey, a, b)
					}
				}
			}
		}
	}
	for _, s := range cfg.Services {
		for _, target := range s.Targets {
			if !reachable(cfg, target.Addr()) {
				t.Fatalf("seed %d: %s of %s leads to %s, which nobody has", seed, s.ServiceID, m.Name, target)
			}
		}
		for _, in := range cfg.Inbound {
			if in.Port == s.Port && in.Protocol == s.Protocol {
				t.Fatalf("seed %d: %s is carried where %s is the application's", seed, s.ServiceID, in)
			}
		}
	}
}

func reachable(cfg wire.Config, a netip.Addr) bool {
	for _, own := range cfg.Interface.Addresses {
		if own.Addr() == a {
			return true
		}
	}
	for _, p := range cfg.Peers {
		for _, r := range p.Ranges() {
			if r.Contains(a) {
				return true
			}
		}
	}
	return false
}

func BenchmarkNetwork(b *testing.B) {
	t := tunnelWith("t", "", "10.0.0.0/16")
	in := Inputs{Tunnel: t}
	for i := range 1000 {
		in.Pods = append(in.Pods, joinedPod(fmt.Sprintf("p-%d", i), types.UID(fmt.Sprint(i))))
	}
	state := State{Tunnel: t, Members: carryOut(nil, NewPlan(in, "main"))}
	for i := range state.Members {
		state.Members[i].Status.PublicKey, state.Members[i].Status.Endpoint = key.Public{byte(i), byte(i >> 8), 1}.String(), "10.1.0.1:51820"
	}
	b.Run("NewNetwork/members=1000", func(b *testing.B) {
		for b.Loop() {
			NewNetwork(state)
		}
	})
	n := NewNetwork(state)
	b.Run("Config/members=1000", func(b *testing.B) {
		for b.Loop() {
			if _, ok := n.Config("p-500"); !ok {
				b.Fatal("no such member")
			}
		}
	})
}
