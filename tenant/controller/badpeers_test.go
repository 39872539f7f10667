package controller

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Whatever is wrong with a peer, its condition and an Event name the field, the value and who has it already; nothing is written to the
// peer that was there.
func TestBadPeers(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{addressing: {ipv4Pool: 10.77.0.0/24, ipv6Prefix: 'fd00:1:2:3::/64'}, gateway: {}, expose: [{service: web}]}")
	memberKey, gatewayKey, goodOne := key.NewPrivate().Public(), key.NewPrivate().Public(), key.NewPrivate().Public()
	eventually(t, func() error {
		return cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tenantwire-gateway-main"}, &corev1.ServiceAccount{})
	})
	register(t, makePod(t, ns, "member", "main", nil), memberKey)
	gateway := makePod(t, ns, "tenantwire-gateway-main-x", "main", nil, func(p *corev1.Pod) {
		p.Labels[v1alpha1.LabelRole], p.Spec.ServiceAccountName = v1alpha1.LabelRoleGateway, "tenantwire-gateway-main"
	})
	register(t, gateway, gatewayKey)
	makePeer(t, ns, "good", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: [10.77.0.50], routes: [192.168.0.0/24]}", goodOne))
	good := decided(t, ns, "good", tenant.ReasonAccepted)
	eventually(t, func() error { // what a peer may not have is known
		must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), tun))
		if g := tun.Status.Gateway; g == nil || len(g.Addresses) == 0 || len(tun.Status.Services) == 0 {
			return fmt.Errorf("status %+v", tun.Status)
		}
		return nil
	})

	for name, c := range map[string]struct {
		spec   string // beside the tunnel
		reason tenant.Reason
		says   []string
	}{
		"peers-key":         {fmt.Sprintf("publicKey: %q", goodOne), tenant.ReasonDuplicateKey, []string{"spec.publicKey", goodOne.String(), "peer good"}},
		"members-key":       {fmt.Sprintf("publicKey: %q", memberKey), tenant.ReasonDuplicateKey, []string{"spec.publicKey", memberKey.String(), "member member"}},
		"our-own-key":       {fmt.Sprintf("publicKey: %q", gatewayKey), tenant.ReasonDuplicateKey, []string{"spec.publicKey", gatewayKey.String(), gateway.Name}},
		"peers-address":     {"addresses: [10.77.0.50]", tenant.ReasonDuplicateAddress, []string{"spec.addresses", "10.77.0.50", "peer good"}},
		"members-address":   {"addresses: [10.77.0.1]", tenant.ReasonDuplicateAddress, []string{"spec.addresses", "10.77.0.1", "member "}},
		"gateways-address":  {fmt.Sprintf("addresses: [%q]", tun.Status.Gateway.Addresses[0]), tenant.ReasonDuplicateAddress, []string{"spec.addresses", tun.Status.Gateway.Addresses[0], "gateway"}},
		"services-address":  {fmt.Sprintf("addresses: [%q]", tun.Status.Services[0].Addresses[0]), tenant.ReasonDuplicateAddress, []string{"spec.addresses", tun.Status.Services[0].Addresses[0], "Service web"}},
		"foreign-address":   {"addresses: [10.78.0.7]", tenant.ReasonInvalid, []string{"spec.addresses", "10.78.0.7", "10.77.0.0/24"}},
		"peers-route":       {"routes: [192.168.0.128/25]", tenant.ReasonRouteOverlap, []string{"192.168.0.128/25", "192.168.0.0/24", "peer good"}},
		"members-range":     {"routes: [10.77.0.0/16]", tenant.ReasonRouteOverlap, []string{"10.77.0.0/16", "10.77.0.0/24", "tunnel main"}},
		"routes-of-its-own": {"routes: [172.16.0.0/16, 172.16.1.0/24]", tenant.ReasonInvalid, []string{"spec.routes", "172.16.0.0/16", "172.16.1.0/24"}},
		"expired":           {"expiresAt: '2020-01-01T00:00:00Z'", tenant.ReasonExpired, []string{"spec.expiresAt", "2020-01-01T00:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := c.spec
			if !strings.Contains(spec, "publicKey") {
				spec += fmt.Sprintf(", publicKey: %q", key.NewPrivate().Public())
			}
			makePeer(t, ns, name, "{tunnel: main, "+spec+"}")
			p := decided(t, ns, name, c.reason)
			told := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted)
			event := eventOf(t, ns, p, c.reason)
			for _, want := range c.says {
				if !strings.Contains(told.Message, want) || !strings.Contains(event.Note, want) {
					t.Errorf("the condition says %q, the Event %q, want %q", told.Message, event.Note, want)
				}
			}
			if told.Status != metav1.ConditionFalse || event.Type != corev1.EventTypeWarning {
				t.Errorf("condition %s, Event %s", told.Status, event.Type)
			}
		})
	}
	if now := decided(t, ns, "good", tenant.ReasonAccepted); now.ResourceVersion != good.ResourceVersion {
		t.Errorf("the good peer was written: %+v, then %+v", good.Status, now.Status)
	}
}

// What one object alone shows to be wrong does not get in, by an answer that names the field.
func TestBadPeersAreRefused(t *testing.T) {
	needCluster(t)
	ns := namespace(t)
	for name, c := range map[string]struct{ spec, field string }{
		"no key":         {"{tunnel: main}", "spec.publicKey"},
		"short key":      {"{tunnel: main, publicKey: 'AAAA'}", "spec.publicKey"},
		"zero key":       {"{tunnel: main, publicKey: 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='}", "spec.publicKey"},
		"key in hex":     {"{tunnel: main, publicKey: '" + strings.Repeat("ab", 22) + "'}", "spec.publicKey"},
		"no port":        {fmt.Sprintf("{tunnel: main, publicKey: %q, endpoint: 203.0.113.7}", goodKey), "spec.endpoint"},
		"port 0":         {fmt.Sprintf("{tunnel: main, publicKey: %q, endpoint: '203.0.113.7:0'}", goodKey), "spec.endpoint"},
		"loopback":       {fmt.Sprintf("{tunnel: main, publicKey: %q, endpoint: '127.0.0.1:51820'}", goodKey), "spec.endpoint"},
		"two addresses":  {fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: [10.77.0.1, 10.77.0.2]}", goodKey), "spec.addresses"},
		"host bits":      {fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [192.168.0.1/24]}", goodKey), "spec.routes"},
		"route loopback": {fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [127.0.0.0/8]}", goodKey), "spec.routes"},
		"secret key":     {fmt.Sprintf("{tunnel: main, publicKey: %q, presharedKey: {secretKey: '../x'}}", goodKey), "spec.presharedKey.secretKey"},
	} {
		err := cluster.admin.Create(t.Context(), parse(t, "TunnelPeer", ns, "bad", c.spec), client.DryRunAll)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: %v, want it refused by %s", name, err, c.field)
		}
	}
}

func makePeer(t *testing.T, ns, name, spec string) {
	t.Helper()
	must(t, cluster.admin.Create(t.Context(), parse(t, "TunnelPeer", ns, name, spec)))
}

// register has a pod's member be what its sidecar registers.
func register(t *testing.T, pod *corev1.Pod, public key.Public) {
	t.Helper()
	m := getMember(t, pod)
	m.Status = v1alpha1.TunnelMemberStatus{PublicKey: public.String(), Endpoint: "10.0.0.1:51820", Datapath: v1alpha1.DatapathNetstack,
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "DataPathUp", LastTransitionTime: metav1.Now()}}}
	must(t, cluster.admin.Status().Update(t.Context(), m))
}

// decided waits until a peer's condition Accepted has a reason.
func decided(t *testing.T, ns, name string, want tenant.Reason) *v1alpha1.TunnelPeer {
	t.Helper()
	var p v1alpha1.TunnelPeer
	eventually(t, func() error {
		must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &p))
		if got := reasonOf(p.Status.Conditions, v1alpha1.ConditionAccepted); got != want || p.Status.ObservedGeneration != p.Generation {
			return fmt.Errorf("peer %s: %+v, want %s", name, p.Status.Conditions, want)
		}
		return nil
	})
	return &p
}

// eventOf waits for an Event about an object.
func eventOf(t *testing.T, ns string, about client.Object, reason tenant.Reason) (found eventsv1.Event) {
	t.Helper()
	eventually(t, func() error {
		var events eventsv1.EventList
		must(t, cluster.admin.List(t.Context(), &events, client.InNamespace(ns)))
		for _, e := range events.Items {
			if e.Regarding.UID == about.GetUID() && e.Reason == string(reason) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("no Event %s among %d", reason, len(events.Items))
	})
	return found
}
