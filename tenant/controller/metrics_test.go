package controller

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The leader tells of every tunnel, whatever its status says by now; who does not lead says nothing.
func TestTunnelMetrics(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	named := func(name string) *v1alpha1.TenantTunnel {
		return &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: name}}
	}
	known := named("known")
	known.Status = v1alpha1.TenantTunnelStatus{Members: &v1alpha1.MemberCounts{Ready: 2, Total: 5}, Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue}, {Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}}}
	leads := make(chan struct{})
	c := NewCollector(fake.NewClientBuilder().WithScheme(scheme).WithObjects(named("fresh"), known).Build(), leads)
	if n := testutil.CollectAndCount(c); n != 0 {
		t.Errorf("%d series of a replica that does not lead", n)
	}
	close(leads)
	if err := testutil.CollectAndCompare(c, strings.NewReader(`
# HELP tenantwire_tunnel_condition 1 while the tunnel's condition is True, 0 otherwise. Told by the leader.
# TYPE tenantwire_tunnel_condition gauge
tenantwire_tunnel_condition{condition="Accepted",namespace="acme",tunnel="fresh"} 0
tenantwire_tunnel_condition{condition="Ready",namespace="acme",tunnel="fresh"} 0
tenantwire_tunnel_condition{condition="Accepted",namespace="acme",tunnel="known"} 1
tenantwire_tunnel_condition{condition="Ready",namespace="acme",tunnel="known"} 0
# HELP tenantwire_tunnel_members Members of the tunnel by state. Told by the leader.
# TYPE tenantwire_tunnel_members gauge
tenantwire_tunnel_members{namespace="acme",state="NotReady",tunnel="fresh"} 0
tenantwire_tunnel_members{namespace="acme",state="Ready",tunnel="fresh"} 0
tenantwire_tunnel_members{namespace="acme",state="NotReady",tunnel="known"} 3
tenantwire_tunnel_members{namespace="acme",state="Ready",tunnel="known"} 2
`)); err != nil {
		t.Error(err)
	}
}
