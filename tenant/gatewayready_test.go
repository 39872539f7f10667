package tenant

import (
	"strings"
	"testing"
	"time"

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

// A gateway is taken to be about to become active for a minute, and where nothing else is wrong.
func TestTakesOver(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		active string
		reason Reason
		since  time.Duration
		want   time.Duration
	}{
		"one is active":          {"g1", ReasonAllReady, 0, 0},
		"since a moment":         {"", ReasonGatewayNotReady, time.Second, takeoverTime - time.Second},
		"for too long":           {"", ReasonGatewayNotReady, 2 * takeoverTime, 0},
		"it cannot become ready": {"", ReasonDatapathUnavailable, time.Second, 0},
	} {
		tunnel := &v1alpha1.TenantTunnel{Status: v1alpha1.TenantTunnelStatus{Gateway: &v1alpha1.GatewayStatus{Active: tt.active},
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: string(tt.reason), LastTransitionTime: metav1.NewTime(now.Add(-tt.since))}}}}
		if got := TakesOver(tunnel, now); got != tt.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := TakesOver(&v1alpha1.TenantTunnel{}, now); got != 0 {
		t.Errorf("without a status: %s", got)
	}
}
