package tenant

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func exposing(pool string, services ...string) *v1alpha1.TenantTunnel {
	t := tunnelWith("t1", "fd00:1:2:3::/64", pool)
	t.Spec.Gateway = &v1alpha1.Gateway{}
	for _, s := range services {
		t.Spec.Expose = append(t.Spec.Expose, v1alpha1.ExposedService{Service: s})
	}
	return t
}

func memberAt(name string, addresses ...string) v1alpha1.TunnelMember {
	return v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1alpha1.TunnelMemberSpec{Tunnel: "main", Addresses: addresses}}
}

func peerAt(name string, chosen, given []string) v1alpha1.TunnelPeer {
	k := key.Public{1}
	copy(k[1:], name)
	return v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)},
		Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main", Addresses: chosen, PublicKey: k.String()}, Status: v1alpha1.TunnelPeerStatus{Addresses: given}}
}

// A Service keeps what it was given for as long as it is exposed, and one that goes leaves nothing to the next.
func TestServiceAddressesStay(t *testing.T) {
	tun := exposing("10.77.0.0/24", "web")
	give := func() []v1alpha1.ServiceAddresses {
		tun.Status.Services, _ = GiveServiceAddresses(tun, nil, nil)
		return tun.Status.Services
	}
	web := give()[0]
	if len(web.Addresses) != 2 {
		t.Fatalf("given %v", web.Addresses)
	}
	for _, services := range [][]string{{"a", "web", "zz"}, {"web"}, {"web", "b"}} {
		tun.Spec.Expose = exposing("", services...).Spec.Expose
		given := give()
		i := slices.IndexFunc(given, func(s v1alpha1.ServiceAddresses) bool { return s.Service == "web" })
		if len(given) != len(services) || i < 0 || !slices.Equal(given[i].Addresses, web.Addresses) {
			t.Errorf("beside %v: %v, was %v", services, given, web)
		}
	}
	for i := range 40 {
		name := fmt.Sprint("next-", i)
		next := exposing("10.77.0.0/28", name)
		next.Status.Services = []v1alpha1.ServiceAddresses{web}
		next.Status.Services[0].Addresses = []string{"10.77.0.13"}
		if given, _ := GiveServiceAddresses(next, nil, nil); given[0].Addresses[0] == "10.77.0.13" {
			t.Errorf("%s has %v, which was another's until now", name, given[0].Addresses)
		}
	}
	tun.Spec.Gateway = nil
	if given := give(); len(given) > 0 || len(ServiceAddresses(tun, nil, nil)) > 0 {
		t.Errorf("without a gateway: %v", given)
	}
}

// What the status says that is not the Service's to have, it has not, and is set right.
func TestServiceAddressesOfABadStatus(t *testing.T) {
	members := []v1alpha1.TunnelMember{memberAt("m", "fd00:1:2:3::1001", "10.77.0.1")}
	peers := []v1alpha1.TunnelPeer{peerAt("laptop", nil, []string{"10.77.0.200", "fd00:1:2:3::2001"}), peerAt("late", []string{"10.77.0.9"}, nil)}
	for _, c := range []struct {
		says []string
		has  string
	}{
		{[]string{"10.77.0.7", "fd00:1:2:3::100"}, "10.77.0.7 fd00:1:2:3::100"},
		{[]string{"10.77.0.9"}, "10.77.0.9"}, // who comes later and asks for it does not get it
		{[]string{"10.77.0.7", "10.77.0.8", "fd00:1:2:3::100", "fd00:1:2:3::101"}, "10.77.0.7 fd00:1:2:3::100"},
		{[]string{"fd00:1:2:3::ff"}, ""}, // for choosing
		{[]string{"10.77.0.254", "fd00:1:2:3::1"}, ""},
		{[]string{"10.77.0.1", "fd00:1:2:3::1001"}, ""},
		{[]string{"10.77.0.200", "fd00:1:2:3::2001"}, ""},
		{[]string{"10.77.0.0", "10.77.0.255", "10.78.0.1", "fd00:9::1", "169.254.169.254", "127.0.0.1", "::ffff:10.77.0.7", "x", ""}, ""},
		{nil, ""},
	} {
		tun := exposing("10.77.0.0/24", "web")
		tun.Status.Services = []v1alpha1.ServiceAddresses{{Service: "gone", Addresses: []string{"10.77.0.7"}}, {Service: "web", Addresses: c.says},
			{Service: "web", Addresses: []string{"10.77.0.30"}}}
		if got := strings.Join(addressStrings(ServiceAddresses(tun, members, peers)["web"]), " "); got != c.has {
			t.Errorf("%v: it has %q, want %q", c.says, got, c.has)
		}
		given, without := GiveServiceAddresses(tun, members, peers)
		if tun.Status.Services = given; len(given) != 1 || len(given[0].Addresses) != 2 || len(without) > 0 || len(ServiceAddresses(tun, members, peers)["web"]) != 2 {
			t.Errorf("%v: set right it is %v", c.says, given)
		}
	}
}

// A peer that asks for an address of a Service is refused; what it was given before it keeps, and the Service moves.
func TestPeerAsksForAServiceAddress(t *testing.T) {
	tun := exposing("10.77.0.0/24", "web")
	tun.Status.Services = []v1alpha1.ServiceAddresses{{Service: "web", Addresses: []string{"10.77.0.7", "fd00:1:2:3::100"}}}
	peers := []v1alpha1.TunnelPeer{peerAt("a", []string{"10.77.0.7"}, nil)}
	if d := DecidePeers(tun, peers, nil, time.Now())["a"]; d.Reason != ReasonDuplicateAddress || !strings.Contains(d.Message, "Service web") {
		t.Errorf("%+v", d)
	}
	peers[0] = peerAt("a", nil, []string{"10.77.0.7"})
	if d := DecidePeers(tun, peers, nil, time.Now())["a"]; !d.Accepted() || !slices.Contains(d.Addresses, "10.77.0.7") {
		t.Errorf("%+v", d)
	}
	if own := ServiceAddresses(tun, nil, peers)["web"]; len(own) != 1 || own[0].Is4() {
		t.Errorf("the Service has %v still", own)
	}
}

// With the pool full a Service has an IPv6 address alone, and the condition says whose it is that lack one.
func TestServiceAddressesPoolFull(t *testing.T) {
	tun := exposing("10.77.0.0/28", "a", "b", "c")
	in := Inputs{Tunnel: tun}
	for i := range 12 { // of 13, as one is the gateway's
		in.Pods = append(in.Pods, joinedPod(fmt.Sprintf("p-%02d", i), types.UID(fmt.Sprint("u", i))))
	}
	p := NewPlan(in, "main")
	if d := p.Status.Accepted; d.Reason != ReasonServiceWithoutIPv4 || !d.Accepted() || !strings.Contains(d.Message, "without an IPv4 address: b, c") {
		t.Errorf("%+v", d)
	}
	for i, s := range p.Status.Services {
		if want := map[bool]int{true: 2, false: 1}[i == 0]; len(s.Addresses) != want {
			t.Errorf("%s has %v", s.Service, s.Addresses)
		}
	}
	tun.Spec.Expose = tun.Spec.Expose[:1]
	if d := NewPlan(in, "main").Status.Accepted; d.Reason != ReasonAccepted {
		t.Errorf("%+v", d)
	}
}

// Whatever comes and goes, and whoever is slow to hear of it: nobody shares an address with a Service, none moves without a cause, and
// saying it again changes nothing.
func TestServiceAddressesAreNobodyElses(t *testing.T) {
	now := time.Now()
	for seed := range int64(300) {
		s := source{rand.New(rand.NewSource(seed))} //nolint:gosec // a test wants to be repeatable
		tun := exposing(pick(s, "10.77.0.0/24", "10.77.0.0/28", ""))
		var members []v1alpha1.TunnelMember
		var peers []v1alpha1.TunnelPeer
		for round := range 12 {
			before := ServiceAddresses(tun, members, peers)
			tun.Spec.Expose = nil
			for _, i := range s.Perm(12)[:s.Intn(8)] {
				tun.Spec.Expose = append(tun.Spec.Expose, v1alpha1.ExposedService{Service: fmt.Sprint("s", i)})
			}
			stale := members // what the peers' controller knows
			if s.Intn(2) == 0 {
				members = uniqueNames(some(s, 10, func() v1alpha1.TunnelMember {
					return memberAt(s.name(), fmt.Sprintf("10.77.0.%d", 1+s.Intn(20)), fmt.Sprintf("fd00:1:2:3::%x", 256+s.Intn(9)))
				}))
			}
			if s.Intn(2) == 0 {
				peers = nil
				for i := range s.Intn(6) {
					peers = append(peers, peerAt(fmt.Sprint("p", i), some(s, 1, s.address), nil))
				}
			}
			decisions := DecidePeers(tun, peers, stale, now)
			for i := range peers {
				peers[i].Status.Addresses = decisions[peers[i].Name].Addresses
			}
			tun.Status.Services, _ = GiveServiceAddresses(tun, members, peers)
			checkServiceAddresses(t, fmt.Sprintf("seed %d, round %d", seed, round), before, tun, members, peers)
		}
	}
}

func checkServiceAddresses(t *testing.T, when string, before map[string][]netip.Addr, tun *v1alpha1.TenantTunnel, members []v1alpha1.TunnelMember, peers []v1alpha1.TunnelPeer) {
	t.Helper()
	own, held, seen := ServiceAddresses(tun, members, peers), heldBefore(tun, members, peers), map[netip.Addr]string{}
	for _, given := range tun.Status.Services {
		if got := addressStrings(own[given.Service]); !slices.Equal(got, given.Addresses) {
			t.Fatalf("%s: %s is given %v and has %v", when, given.Service, given.Addresses, got)
		}
		for _, a := range own[given.Service] {
			if other, twice := seen[a]; twice || held[a] || a.Is6() && interfaceID(a) < 256 {
				t.Fatalf("%s: %s of %s is %q's too, or held: %t", when, a, given.Service, other, held[a])
			}
			seen[a] = given.Service
		}
		for _, a := range before[given.Service] {
			if !held[a] && !slices.Contains(own[given.Service], a) {
				t.Fatalf("%s: %s had %s and has %v", when, given.Service, a, own[given.Service])
			}
		}
	}
	if again, _ := GiveServiceAddresses(tun, members, peers); fmt.Sprint(again) != fmt.Sprint(tun.Status.Services) {
		t.Fatalf("%s: asked again it is %v", when, again)
	}
	for name, d := range DecidePeers(tun, peers, members, time.Now()) {
		for _, a := range d.Addresses {
			if owner := seen[netip.MustParseAddr(a)]; owner != "" {
				t.Fatalf("%s: peer %s and Service %s have %s", when, name, owner, a)
			}
		}
	}
}
