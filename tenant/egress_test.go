package tenant

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// serving is a tunnel whose egress hosts each have a Service and these ports.
func serving(hosts ...string) *v1alpha1.TenantTunnel {
	t := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "main", UID: "t1"}}
	t.Spec.Gateway = &v1alpha1.Gateway{}
	for _, h := range hosts {
		t.Spec.Egress = append(t.Spec.Egress, v1alpha1.EgressHost{Host: h, Address: "192.168.10.20", Service: h,
			Ports: []v1alpha1.Port{{Port: 80, Protocol: v1alpha1.TCP}}})
	}
	return t
}

// give has the status say what it should.
func give(t *v1alpha1.TenantTunnel) {
	t.Status.Gateway = &v1alpha1.GatewayStatus{Egress: EgressPorts(t)}
}

// ports is what is given, as HOST:PORT/PROTOCOL=GATEWAYPORT.
func ports(given []v1alpha1.EgressPort) string {
	var out []string
	for _, e := range given {
		out = append(out, fmt.Sprintf("%s:%d/%s=%d", e.Host, e.Port.Port, e.Protocol, e.GatewayPort))
	}
	return strings.Join(out, " ")
}

func TestEgressPorts(t *testing.T) {
	tun := serving("b", "a")
	give(tun)
	at := func(key string) int32 {
		t.Helper()
		for _, e := range tun.Status.Gateway.Egress {
			if fmt.Sprintf("%s:%d/%s", e.Host, e.Port.Port, e.Protocol) == key {
				return e.GatewayPort
			}
		}
		t.Fatalf("%s has none: %s", key, ports(tun.Status.Gateway.Egress))
		return 0
	}
	a, b := at("a:80/TCP"), at("b:80/TCP")
	tun.Spec.Egress = append(serving("c").Spec.Egress, tun.Spec.Egress...)
	give(tun)
	if c := at("c:80/TCP"); at("a:80/TCP") != a || at("b:80/TCP") != b || c == a || c == b {
		t.Errorf("a third one: %s", ports(tun.Status.Gateway.Egress))
	}
	// One goes as others come: its port is not theirs, nor is it once nobody remembers that it was given.
	for _, hosts := range [][]string{{"c", "d", "a"}, {"c", "d", "a", "e"}} {
		tun.Spec.Egress = serving(hosts...).Spec.Egress
		give(tun)
		if at("a:80/TCP") != a || strings.Contains(ports(tun.Status.Gateway.Egress), fmt.Sprint(b)) {
			t.Errorf("%v after b with %d: %s", hosts, b, ports(tun.Status.Gateway.Egress))
		}
	}
	// One port by two protocols is two.
	tun.Spec.Egress = serving("a").Spec.Egress
	tun.Spec.Egress[0].Ports = []v1alpha1.Port{{Port: 80, Protocol: v1alpha1.UDP}, {Port: 80}, {Port: 81}, {Port: 80, Protocol: "SCTP"}, {Port: 80, Protocol: v1alpha1.TCP}}
	give(tun)
	if udp := at("a:80/UDP"); at("a:80/TCP") != a || udp == a || at("a:81/TCP") == udp || len(tun.Status.Gateway.Egress) != 3 {
		t.Errorf("two protocols: %s", ports(tun.Status.Gateway.Egress))
	}
	tun.Spec.Egress[0].Service = ""
	if give(tun); len(tun.Status.Gateway.Egress) > 0 || ServesEgress(tun) {
		t.Errorf("without a Service: %v", tun.Status.Gateway.Egress)
	}
	tun = serving("a")
	give(tun)
	tun.Spec.Gateway = nil
	if got := EgressPorts(tun); len(got)+len(EgressGiven(tun)) > 0 || ServesEgress(tun) {
		t.Errorf("without a gateway: %v", got)
	}
}

// What a status says that no operator writes leads nowhere, and is set right.
func TestEgressPortsOfABadStatus(t *testing.T) {
	tun := serving("a", "b", "c", "d")
	at := func(host string, port int32) v1alpha1.EgressPort {
		return v1alpha1.EgressPort{Host: host, Port: v1alpha1.Port{Port: 80}, GatewayPort: port}
	}
	tun.Status.Gateway = &v1alpha1.GatewayStatus{Egress: []v1alpha1.EgressPort{at("a", 20001), at("b", 20001), at("c", 51820), at("d", 19999), at("a", 20005)}}
	if given := EgressGiven(tun); len(given) != 1 || given[EgressKey{"a", v1alpha1.Port{Port: 80, Protocol: v1alpha1.TCP}}] != 20001 {
		t.Errorf("given: %v", given)
	}
	give(tun)
	seen := map[int32]bool{}
	for _, e := range tun.Status.Gateway.Egress {
		if seen[e.GatewayPort] || e.GatewayPort < FirstEgressPort || e.GatewayPort > LastEgressPort || e.Host == "a" && e.GatewayPort != 20001 {
			t.Errorf("set right: %s", ports(tun.Status.Gateway.Egress))
		}
		seen[e.GatewayPort] = true
	}
	if len(seen) != 4 {
		t.Errorf("set right: %s", ports(tun.Status.Gateway.Egress))
	}
}

// Whatever comes and goes: nobody's port changes, nobody shares one, all get one, and saying it again changes nothing.
func TestEgressPortsAreStable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tun := serving()
	for round := range 60 {
		before := EgressGiven(tun)
		tun.Spec.Egress = nil
		n := r.IntN(20)
		if round == 40 {
			n = 64 // as many as there can be
		}
		for _, i := range r.Perm(64)[:n] {
			e := serving(fmt.Sprintf("h%d", i)).Spec.Egress[0]
			e.Ports = nil
			for p := range 1 + r.IntN(32) {
				e.Ports = append(e.Ports, v1alpha1.Port{Port: int32(1 + p), Protocol: []v1alpha1.Protocol{v1alpha1.TCP, v1alpha1.UDP}[r.IntN(2)]})
			}
			if n == 64 {
				e.Ports = e.Ports[:1]
				for p := range 31 {
					e.Ports = append(e.Ports, v1alpha1.Port{Port: int32(100 + p), Protocol: v1alpha1.TCP})
				}
			}
			tun.Spec.Egress = append(tun.Spec.Egress, e)
		}
		give(tun)
		given := EgressGiven(tun)
		want := 0
		for _, e := range tun.Spec.Egress {
			want += len(e.Ports)
		}
		if len(given) != want || len(tun.Status.Gateway.Egress) != want {
			t.Fatalf("round %d: %d of %d have a port", round, len(given), want)
		}
		taken := map[int32]EgressKey{}
		for k, p := range given {
			if other, twice := taken[p]; twice || p < FirstEgressPort || p > LastEgressPort {
				t.Fatalf("round %d: %v and %v have port %d", round, k, other, p)
			}
			taken[p] = k
			if was, ok := before[k]; ok && was != p {
				t.Fatalf("round %d: %v had port %d and has %d", round, k, was, p)
			}
		}
		if again := EgressPorts(tun); !slices.Equal(again, tun.Status.Gateway.Egress) {
			t.Fatalf("round %d: asked again it is %v", round, again)
		}
	}
}

func TestServiceTaken(t *testing.T) {
	tun := serving("a", "b", "c")
	service := func(namespace, name string, change func(*corev1.Service)) corev1.Service {
		s := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name,
			Labels:          map[string]string{LabelManagedBy: ManagedBy, v1alpha1.LabelEgress: v1alpha1.EgressEnabled},
			OwnerReferences: []metav1.OwnerReference{{Kind: "TenantTunnel", Name: "main", UID: "t1", Controller: ptr.To(true)}}}}
		if change != nil {
			change(&s)
		}
		return s
	}
	for name, c := range map[string]struct {
		services []corev1.Service
		says     string
	}{
		"none":              {nil, ""},
		"ours":              {[]corev1.Service{service("shop", "a", nil)}, ""},
		"other namespace":   {[]corev1.Service{service("bank", "a", func(s *corev1.Service) { s.Labels = nil })}, ""},
		"other name":        {[]corev1.Service{service("shop", "x", func(s *corev1.Service) { s.Labels = nil })}, ""},
		"no labels":         {[]corev1.Service{service("shop", "b", func(s *corev1.Service) { s.Labels = nil })}, "left alone: b"},
		"the other gateway": {[]corev1.Service{service("shop", "c", func(s *corev1.Service) { s.OwnerReferences[0].UID = "t2" })}, "left alone: c"},
		"not controlled":    {[]corev1.Service{service("shop", "c", func(s *corev1.Service) { s.OwnerReferences[0].Controller = nil })}, "left alone: c"},
		"two": {[]corev1.Service{service("shop", "c", func(s *corev1.Service) { s.OwnerReferences = nil }), service("shop", "a", func(s *corev1.Service) { s.Labels = nil })},
			"left alone: a, c"},
	} {
		d := withServices(Decision{ReasonAccepted, "the tunnel is valid"}, tun, c.services)
		if want := map[bool]Reason{true: ReasonAccepted, false: ReasonServiceTaken}[c.says == ""]; d.Reason != want || !strings.Contains(d.Message, c.says) || !d.Accepted() {
			t.Errorf("%s: %+v", name, d)
		}
	}
	taken := []corev1.Service{service("shop", "a", func(s *corev1.Service) { s.Labels = nil })}
	if d := withServices(Decision{ReasonEgressWithoutRoute, "no route to b"}, tun, taken); !strings.HasPrefix(d.Message, "no route to b; ") || d.Reason != ReasonServiceTaken {
		t.Errorf("beside another: %+v", d)
	}
	tun.Spec.Gateway = nil
	if d := withServices(Decision{Reason: ReasonAccepted}, tun, taken); d.Reason != ReasonAccepted {
		t.Errorf("without a gateway: %+v", d)
	}
}
