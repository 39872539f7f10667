package controller

import (
	"fmt"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Exposed Services are given addresses that stay while they are exposed, whatever else changes; a peer that asks for one does not get it
// before the Service has gone, and without a gateway there are none.
func TestServiceAddresses(t *testing.T) {
	start(t)
	ns := namespace(t)
	tun := makeTunnel(t, ns, "{gateway: {}, addressing: {ipv4Pool: 10.0.0.0/24}, expose: [{service: web}, {service: mail}]}")
	addresses := func(want int) map[string][]string {
		t.Helper()
		out := map[string][]string{}
		eventually(t, func() error {
			var now v1alpha1.TenantTunnel
			if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), &now); err != nil {
				return err
			}
			clear(out)
			for _, s := range now.Status.Services {
				out[s.Service] = s.Addresses
			}
			if len(out) != want || want > 0 && len(out["web"]) != 2 {
				return fmt.Errorf("%+v", now.Status.Services)
			}
			return nil
		})
		return out
	}
	before := addresses(2)
	asks := parse(t, "TunnelPeer", ns, "laptop", fmt.Sprintf("{tunnel: main, publicKey: %q, addresses: [%s]}", goodKey, before["mail"][0]))
	must(t, cluster.admin.Create(t.Context(), asks))
	verdict := func(want tenant.Reason) {
		t.Helper()
		eventually(t, func() error {
			var p v1alpha1.TunnelPeer
			if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(asks), &p); err != nil {
				return err
			}
			if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionAccepted); c == nil || c.Reason != string(want) {
				return fmt.Errorf("%+v", c)
			}
			return nil
		})
	}
	verdict(tenant.ReasonDuplicateAddress)
	setSpec(t, tun, `{"spec":{"expose":[{"service":"api"},{"service":"web"},{"service":"mail"}]}}`)
	for name, own := range addresses(3) {
		if was := before[name]; was != nil && !slices.Equal(own, was) {
			t.Errorf("%s had %v and has %v", name, was, own)
		}
	}
	setSpec(t, tun, `{"spec":{"expose":[{"service":"api"},{"service":"web"}]}}`)
	if after := addresses(2); !slices.Equal(after["web"], before["web"]) {
		t.Errorf("web had %v and has %v", before["web"], after["web"])
	}
	verdict(tenant.ReasonAccepted)
	setSpec(t, tun, `{"spec":{"gateway":null}}`)
	addresses(0)
}

// Addresses are given out for the very object that was read: from an older one nothing is written.
func TestServiceAddressesAreWrittenOnce(t *testing.T) {
	needCluster(t)
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	tun := makeTunnel(t, namespace(t), "{gateway: {}, expose: [{service: web}]}")
	read := func() *v1alpha1.TenantTunnel {
		o := &v1alpha1.TenantTunnel{}
		must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tun), o))
		return o
	}
	write := func(o *v1alpha1.TenantTunnel) error {
		given, _ := tenant.GiveServiceAddresses(o, nil, nil)
		return writeTunnelStatus(t.Context(), operator, o, v1alpha1.TenantTunnelStatus{Addressing: &v1alpha1.AddressingStatus{}, Members: &v1alpha1.MemberCounts{}, Services: given})
	}
	old := read()
	setSpec(t, tun, `{"metadata":{"labels":{"a":"b"}}}`)
	if err := write(old); !apierrors.IsConflict(err) {
		t.Errorf("from an older object: %v, want a conflict", err)
	}
	must(t, write(read()))
	old = read()
	if len(old.Status.Services) != 1 {
		t.Errorf("given: %v", old.Status.Services)
	}
	setSpec(t, tun, `{"metadata":{"labels":{"a":"c"}}}`)
	must(t, write(old)) // nothing new is given out
}
