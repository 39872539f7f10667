package tenant

import (
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// site is a peer of which nothing is wrong by itself but, perhaps, that its ranges overlap.
func (s source) site(i int) v1alpha1.TunnelPeer {
	p := v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("site-", i), CreationTimestamp: metav1.NewTime(time.Unix(int64(i), 0))},
		Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main", PublicKey: key.Public{2, byte(i)}.String()}}
	ranges := func() string { return fmt.Sprintf("10.%d.%d.0/24", 76+s.Intn(3), s.Intn(2)) } // 10.77.0.0/24 is the tunnel's
	for range 1 + s.Intn(3) {
		r := ranges()
		if slices.Contains(p.Spec.Routes, r) {
			continue
		}
		p.Spec.Routes = append(p.Spec.Routes, r)
		if to := ranges(); to != r && s.Intn(2) == 0 {
			p.Spec.Mappings = append(p.Spec.Mappings, v1alpha1.RouteMapping{Route: r, MapTo: to})
		}
	}
	return p
}

// seenAs are the ranges of a peer as the tunnel is to see them, in no order.
func seenAs(p v1alpha1.TunnelPeer) (out []string) {
	for _, r := range p.Spec.Routes {
		for _, m := range p.Spec.Mappings {
			if m.Route == r {
				r = m.MapTo
				break
			}
		}
		out = append(out, r)
	}
	return out
}

// Sites with few ranges to choose from: each is accepted if, and only if, what it is seen as is free; the gateway is told what is real and
// members only what is seen.
func TestMappingProperties(t *testing.T) {
	tun := tunnelWith("t", "fd00:1:2:3::/64", "10.77.0.0/24")
	tun.Spec.Gateway = &v1alpha1.Gateway{Replicas: 1}
	members := []v1alpha1.TunnelMember{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "app"}, Spec: v1alpha1.TunnelMemberSpec{Tunnel: "main", Addresses: []string{"10.77.0.1"}},
			Status: v1alpha1.TunnelMemberStatus{PublicKey: key.Public{1, 1}.String(), Endpoint: "10.244.0.1:51820"}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "gateway"}, Spec: v1alpha1.TunnelMemberSpec{Tunnel: "main", Role: v1alpha1.RoleGateway, Addresses: []string{"10.77.0.2"}},
			Status: v1alpha1.TunnelMemberStatus{PublicKey: key.Public{1, 2}.String(), Endpoint: "10.244.0.2:51820", Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}}}},
	}
	mapped := 0
	for seed := range int64(2000) {
		s := source{rand.New(rand.NewSource(seed))} //nolint:gosec // a test wants to be repeatable
		var peers []v1alpha1.TunnelPeer
		for i := range 1 + s.Intn(4) {
			peers = append(peers, s.site(i))
		}
		decisions := DecidePeers(tun, peers, members, time.Time{})
		held := map[string]bool{"10.77.0.0/24": true}
		want := map[key.Public][]string{}
		for _, p := range peers {
			seen, free := seenAs(p), true
			for i, r := range seen {
				free = free && !held[r] && !slices.Contains(seen[:i], r)
			}
			for _, m := range p.Spec.Mappings { // what is real and what is not mapped must be told apart, too
				for _, r := range p.Spec.Routes {
					free = free && (r != m.MapTo || slices.ContainsFunc(p.Spec.Mappings, func(o v1alpha1.RouteMapping) bool { return o.Route == r }))
				}
			}
			if d := decisions[p.Name]; d.Accepted() != free {
				t.Fatalf("seed %d: %s with %v as %v: %v, want accepted: %v", seed, p.Name, p.Spec.Routes, seen, d, free)
			}
			if !free {
				continue
			}
			k, _ := key.ParsePublic(p.Spec.PublicKey)
			want[k] = seen
			mapped += len(p.Spec.Mappings)
			for _, r := range seen {
				held[r] = true
			}
		}
		n := NewNetwork(State{Tunnel: tun, Members: members, Peers: s.shuffled(State{Peers: slices.Clone(peers)}).Peers})
		checkMapped(t, seed, n, want)
	}
	if mapped == 0 {
		t.Error("no site with a mapping was accepted")
	}
}

func checkMapped(t *testing.T, seed int64, n *Network, want map[key.Public][]string) {
	t.Helper()
	hub, _ := n.Config("gateway")
	app, _ := n.Config("app")
	if err := hub.Validate(); err != nil {
		t.Fatalf("seed %d: gateway: %v", seed, err)
	}
	if err := app.Validate(); err != nil {
		t.Fatalf("seed %d: member: %v", seed, err)
	}
	behind := func(p wire.Peer, r string) bool { return slices.Contains(p.Ranges(), netip.MustParsePrefix(r)) }
	for _, p := range hub.Peers {
		if got := len(p.Ranges()); p.Outside && got != len(want[p.PublicKey]) {
			t.Fatalf("seed %d: %v, want %v", seed, p.Ranges(), want[p.PublicKey])
		}
		for _, r := range want[p.PublicKey] {
			if !behind(p, r) || !slices.ContainsFunc(app.Peers, func(g wire.Peer) bool { return behind(g, r) && len(g.Mappings) == 0 }) {
				t.Fatalf("seed %d: %s is not behind %s, or not behind the gateway: %+v", seed, r, p.PublicKey, app.Peers)
			}
		}
		delete(want, p.PublicKey)
	}
	if len(want) > 0 {
		t.Fatalf("seed %d: the gateway does not know %v", seed, want)
	}
}
