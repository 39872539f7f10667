package tenant

import (
	"fmt"
	"math/rand"
	"net/netip"
	"reflect"
	"slices"
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
	t.Spec.Debug = pick(s, nil, &v1alpha1.Debug{}, &v1alpha1.Debug{Capture: v1alpha1.DebugAllowed}, &v1alpha1.Debug{Bench: v1alpha1.DebugAllowed})
	if s.Intn(2) == 0 {
		mtu := int32(1280 + s.Intn(7000))
		t.Spec.MTU = &mtu
	}
	t.Status.Services = some(s, 5, func() v1alpha1.ServiceAddresses {
		return v1alpha1.ServiceAddresses{Service: s.name(), Addresses: some(s, 3, s.address)}
	})
	for i, e := range t.Spec.Expose { // good ones, too
		t.Status.Services = append(t.Status.Services, v1alpha1.ServiceAddresses{Service: e.Service,
			Addresses: []string{fmt.Sprintf("10.77.0.%d", 200+s.Intn(9)), fmt.Sprintf("fd00:1:2:3::9:%x", i)}})
	}
	state := State{Tunnel: t, Members: some(s, 15, s.member), Peers: some(s, 10, s.peer), Services: some(s, 8, s.service), EndpointSlices: some(s, 8, s.slice),
		Pods: some(s, 8, s.pod)}
	if len(t.Spec.Expose) > 0 {
		s.inbound(&state, t.Spec.Expose[0].Service)
	}
	return state
}

// inbound adds a gateway, and a Service with a member and a pod without a sidecar behind it of whom mostly all is right.
func (s source) inbound(state *State, service string) {
	gateway, app := memberAt("gateway", "10.77.0.190", "fd00:1:2:3::8:1"), s.member()
	gateway.Spec.Role = v1alpha1.RoleGateway
	app.Namespace, app.Name, app.Spec.Tunnel, app.Spec.PodUID, app.Spec.Addresses = "shop", "x20", "main", "uid-x20", []string{"10.77.0.191", "fd00:1:2:3::8:2"}
	app.Status.PublicKey, app.Status.Endpoint = key.Public{99}.String(), "10.0.0.1:51820"
	pod := s.pod()
	pod.Namespace, pod.Name, pod.UID = "shop", "x21", "uid-x21"
	pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: "10.244.0.21"})
	svc, slice := s.service(), s.slice()
	svc.Namespace, svc.Name, svc.Spec.Ports = "shop", service, []corev1.ServicePort{{Port: 80}}
	slice.Namespace, slice.Labels = "shop", map[string]string{discoveryv1.LabelServiceName: service}
	number := int32(8080)
	slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Port: &number})
	for _, name := range []string{"x20", "x21"} {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{s.podIP(name)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name, UID: types.UID("uid-" + name)}})
	}
	state.Members, state.Pods = append(state.Members, gateway, app), append(state.Pods, pod)
	state.Services, state.EndpointSlices = append([]corev1.Service{svc}, state.Services...), append(state.EndpointSlices, slice)
}

func (s source) podIP(pod string) string {
	return pick(s, "10.244.0."+pod[1:], "10.244.0."+pod[1:], "10.244.0."+pod[1:], fmt.Sprintf("10.244.0.%d", s.Intn(6)), fmt.Sprintf("fd99::%x", 1+s.Intn(6)), "169.254.169.254", "127.0.0.1", "10.77.0.1", "::ffff:10.244.0.1", "x")
}

func (s source) pod() corev1.Pod {
	p := corev1.Pod{ObjectMeta: s.meta()}
	p.UID = types.UID(pick(s, "uid-"+p.Name, "uid-"+p.Name, "x", ""))
	p.Labels = map[string]string{v1alpha1.LabelViaGateway: pick(s, "enabled", "enabled", "enabled", "disabled")}
	if s.Intn(4) == 0 {
		p.Labels[v1alpha1.LabelTunnel] = "main"
	}
	p.Spec.HostNetwork = s.Intn(4) == 0
	p.Status.Phase = pick(s, corev1.PodRunning, corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodFailed)
	p.Status.PodIPs = some(s, 2, func() corev1.PodIP { return corev1.PodIP{IP: s.podIP(p.Name)} })
	return p
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
	m.Spec.Role = pick(s, "", "", "", v1alpha1.RoleGateway)
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
		return discoveryv1.Endpoint{Addresses: some(s, 2, func() string { return s.podIP(name) }), Conditions: discoveryv1.EndpointConditions{Ready: boolean(), Serving: boolean(), Terminating: boolean()},
			TargetRef: pick(s, nil, &corev1.ObjectReference{Kind: pick(s, "Pod", "Pod", "Node"), Name: name, UID: types.UID(pick(s, "uid-"+name, "uid-"+name, "x", ""))})}
	})
	return e
}

// shuffled is the same state in another order; the order of a list of names must not matter either.
func (s source) shuffled(in State) State {
	s.Shuffle(len(in.Members), reflect.Swapper(in.Members))
	s.Shuffle(len(in.Peers), reflect.Swapper(in.Peers))
	s.Shuffle(len(in.EndpointSlices), reflect.Swapper(in.EndpointSlices))
	s.Shuffle(len(in.Pods), reflect.Swapper(in.Pods))
	return in
}

// Whatever the objects say: no panic, every configuration is valid, nobody is its own peer, no peer has another's address, targets
// are members' or behind peers or, of what is published, those of a running pod of the namespace that says so and has a network of its own,
// and the order of the objects does not matter.
func TestNetworkProperties(t *testing.T) {
	var seen, inside, outside int
	for seed := range int64(3000) {
		s := source{rand.New(rand.NewSource(seed))} //nolint:gosec // a test wants to be repeatable
		state := s.state()
		state.Members, state.Pods = uniqueNames(state.Members), uniquePods(state.Pods)
		n := NewNetwork(state)
		configs := map[string]wire.Config{}
		for _, m := range state.Members {
			if cfg, ok := n.Config(m.Name); ok {
				configs[m.Name] = cfg
				checkConfig(t, seed, m, cfg)
				checkPublished(t, seed, state, cfg)
				seen += len(cfg.Published)
				for _, p := range cfg.Published {
					inside, outside = inside+len(p.Inside), outside+len(p.Outside)
				}
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
	if seen < 100 || inside < 50 || outside < 20 {
		t.Errorf("%d published, with %d targets inside and %d outside, are too few to say anything", seen, inside, outside)
	}
}

func uniquePods(pods []corev1.Pod) (out []corev1.Pod) {
	seen := map[string]bool{}
	for _, p := range pods {
		if !seen[p.Name] {
			seen[p.Name] = true
			out = append(out, p)
		}
	}
	return out
}

// checkPublished asks the objects themselves.
func checkPublished(t *testing.T, seed int64, s State, cfg wire.Config) {
	t.Helper()
	for _, p := range cfg.Published {
		if !exposedNames(s.Tunnel)[p.Name] {
			t.Fatalf("seed %d: %s is not exposed", seed, p.ServiceID)
		}
		for _, target := range p.Inside {
			has := func(q wire.Peer) bool { return !q.Outside && slices.Contains(q.AllowedIPs, hostPrefix(target.Addr())) }
			if !slices.ContainsFunc(cfg.Peers, has) {
				t.Fatalf("seed %d: %s leads inside to %s, which no member has", seed, p.ServiceID, target)
			}
		}
		for _, target := range p.Outside {
			proven := func(pod corev1.Pod) bool {
				return pod.Namespace == "shop" && pod.Labels[v1alpha1.LabelViaGateway] == "enabled" && pod.Labels[v1alpha1.LabelTunnel] == "" && !pod.Spec.HostNetwork &&
					pod.Status.Phase == corev1.PodRunning && slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool {
					a, err := netip.ParseAddr(ip.IP)
					return err == nil && a.Unmap() == target.Addr()
				})
			}
			if !slices.ContainsFunc(s.Pods, proven) {
				t.Fatalf("seed %d: %s leads outside to %s, which no pod may be reached at", seed, p.ServiceID, target)
			}
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
