package tenant

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// What stays wrong with a gateway until somebody changes something is said before what passes, and after what members lack for good.
func TestGatewayReadiness(t *testing.T) {
	gatewayMember := func(name string, status metav1.ConditionStatus, reason, message string) v1alpha1.TunnelMember {
		return v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1alpha1.TunnelMemberSpec{Tunnel: "main", Role: v1alpha1.RoleGateway},
			Status: v1alpha1.TunnelMemberStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message}}}}
	}
	without := gatewayMember("g1", metav1.ConditionFalse, "DatapathUnavailable", "no TUN here")
	standby := gatewayMember("g2", metav1.ConditionFalse, "DataPathDown", "stands by")
	active := gatewayMember("g3", metav1.ConditionTrue, "DataPathUp", "")
	ready, waiting, exhausted := Decision{ReasonAllReady, "all"}, Decision{ReasonMembersNotReady, "some are not"}, Decision{ReasonPoolExhausted, "no address"}
	for name, tt := range map[string]struct {
		members  Decision
		refused  string
		active   string
		gateways []v1alpha1.TunnelMember
		want     Reason
		says     string
	}{
		"all is well":                     {ready, "", "g3", []v1alpha1.TunnelMember{standby, active}, ReasonAllReady, "all"},
		"nobody is active":                {ready, "", "", []v1alpha1.TunnelMember{standby}, ReasonGatewayNotReady, "no gateway pod"},
		"members are waited for":          {waiting, "", "", []v1alpha1.TunnelMember{standby}, ReasonMembersNotReady, "some are not"},
		"forbidden":                       {waiting, "it needs NET_ADMIN", "", nil, ReasonGatewayDatapathForbidden, "it needs NET_ADMIN"},
		"forbidden, with what was before": {ready, "it needs NET_ADMIN", "g3", []v1alpha1.TunnelMember{active}, ReasonGatewayDatapathForbidden, "it needs NET_ADMIN"},
		"forbidden, and no addresses":     {exhausted, "it needs NET_ADMIN", "", nil, ReasonPoolExhausted, "no address"},
		"its nodes lack the device":       {waiting, "", "", []v1alpha1.TunnelMember{without}, ReasonDatapathUnavailable, "no TUN here; gateway pods without a data path: g1"},
		"one node lacks the device":       {ready, "", "g3", []v1alpha1.TunnelMember{without, active}, ReasonAllReady, "all"},
	} {
		s := Status{Ready: tt.members, Gateway: &v1alpha1.GatewayStatus{Active: tt.active}}
		if got := gatewayReadiness(s, tt.refused, tt.gateways); got.Reason != tt.want || !strings.Contains(got.Message, tt.says) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if !(Decision{Reason: ReasonGatewayDatapathForbidden}).NeedsChange() {
		t.Error("nobody has to change anything")
	}
}
