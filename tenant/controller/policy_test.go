package controller

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// A tunnel says whom its policy picks, and follows the labels of its peers, which no spec tells.
func TestPolicyFollowsLabels(t *testing.T) {
	start(t)
	ns := namespace(t)
	tunnel := makeTunnel(t, ns, "{expose: [{service: web}], policy: {inbound: [{peers: {matchLabels: {team: a}}, services: [web]}]}}")
	office := parse(t, "TunnelPeer", ns, "office", fmt.Sprintf("{tunnel: main, publicKey: %q, routes: [10.1.0.0/16]}", goodKey))
	must(t, cluster.admin.Create(t.Context(), office))
	says := func(want string) {
		t.Helper()
		eventually(t, func() error {
			var now v1alpha1.TenantTunnel
			must(t, cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(tunnel), &now))
			c := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionAccepted)
			if c == nil || c.Status != "True" || c.Reason != "Accepted" || c.Message != want {
				return fmt.Errorf("%+v, want %q", c, want)
			}
			return nil
		})
	}
	const idle = "the tunnel is valid; no accepted TunnelPeer is picked by spec.policy.inbound[0]"
	says(idle)
	label := func(team string) {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata":{"labels":{"team":%q}}}`, team)
		must(t, cluster.admin.Patch(t.Context(), office, client.RawPatch("application/merge-patch+json", []byte(patch))))
	}
	label("a")
	says("the tunnel is valid")
	label("b")
	says(idle)
}
