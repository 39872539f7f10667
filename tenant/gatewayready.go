package tenant

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// gatewayReadiness is a tunnel's readiness with its gateway's. What stays wrong until somebody changes something goes before what passes.
func gatewayReadiness(s Status, refused string, kept []v1alpha1.TunnelMember) Decision {
	without, why := gatewaysWithoutDatapath(kept)
	switch {
	case s.Ready.NeedsChange():
		return s.Ready
	case refused != "":
		return Decision{ReasonGatewayDatapathForbidden, refused}
	case s.Gateway.Active == "" && len(without) > 0:
		return Decision{ReasonDatapathUnavailable, fmt.Sprintf("%s; gateway pods without a data path: %s", why, list(without))}
	case s.IsReady() && s.Gateway.Active == "":
		return Decision{ReasonGatewayNotReady, "no gateway pod is active"}
	}
	return s.Ready
}

// takeoverTime is longer than a takeover takes, or the first start of a gateway: who is longer without has to do something about it.
const takeoverTime = time.Minute

// TakesOver is for how much longer a tunnel without an active gateway is taken to be about to have one; zero: it has one, or never will by itself.
func TakesOver(t *v1alpha1.TenantTunnel, now time.Time) time.Duration {
	c := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionReady)
	if t.Status.Gateway == nil || t.Status.Gateway.Active != "" || c == nil || c.Reason != string(ReasonGatewayNotReady) {
		return 0
	}
	return max(0, takeoverTime-now.Sub(c.LastTransitionTime.Time))
}

// gatewaysWithoutDatapath are the gateway pods whose node lacks what spec.gateway.datapath takes, and what one of them says.
func gatewaysWithoutDatapath(kept []v1alpha1.TunnelMember) (pods []string, why string) {
	var problems []Problem
	for i := range kept {
		m := &kept[i]
		if !isGateway(m) {
			continue
		}
		if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Reason == string(ReasonDatapathUnavailable) {
			problems = append(problems, Problem{m.Name, "", Decision{ReasonDatapathUnavailable, c.Message}})
		}
	}
	return affected(problems, ReasonDatapathUnavailable)
}
