package tenant

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Status is what a tunnel's status should say; when it began to say so is for the controller to add.
type Status struct {
	Accepted   Decision
	Ready      Decision
	Addressing v1alpha1.AddressingStatus
	Members    v1alpha1.MemberCounts
	Datapaths  []v1alpha1.DatapathCount
	Gateway    *v1alpha1.GatewayStatus // nil: the tunnel has none
	Services   []v1alpha1.ServiceAddresses
}

// tunnelStatus counts the members that exist and the ones about to be made, so that the count does not lag a reconcile behind.
func tunnelStatus(in Inputs, kept []v1alpha1.TunnelMember, applied int, problems []Problem) Status {
	_, accepted := decidePeers(in.Tunnel, in.Peers, kept, in.Now)
	s := Status{Accepted: withServices(decideTunnel(in.Tunnel, accepted), in.Tunnel, in.Services)}
	if p := IPv6Prefix(in.Tunnel); p.IsValid() {
		s.Addressing.IPv6Prefix = p.String()
	}
	if p := IPv4Pool(in.Tunnel); p.IsValid() {
		s.Addressing.IPv4Pool = p.String()
	}
	datapaths := map[v1alpha1.DatapathChoice]int32{}
	var waiting []string
	var without []Problem
	members := 0
	for i := range kept {
		m := &kept[i]
		if isGateway(m) {
			continue
		}
		members++
		if m.Status.Datapath != "" {
			datapaths[m.Status.Datapath]++
		}
		if meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionReady) {
			s.Members.Ready++
		} else {
			waiting = append(waiting, m.Name)
		}
		if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Reason == string(ReasonDatapathUnavailable) {
			without = append(without, Problem{m.Name, "", Decision{ReasonDatapathUnavailable, c.Message}})
		}
	}
	s.Members.Total = int32(members)
	for d, n := range datapaths {
		s.Datapaths = append(s.Datapaths, v1alpha1.DatapathCount{Datapath: d, Members: n})
	}
	slices.SortFunc(s.Datapaths, func(a, b v1alpha1.DatapathCount) int { return cmp.Compare(a.Datapath, b.Datapath) })
	slices.Sort(waiting)
	s.Ready = readiness(s.Members, waiting, applied, slices.Concat(problems, without))
	if in.Tunnel.Spec.Gateway != nil {
		s.Gateway = gatewayStatus(in.Tunnel, kept)
		s.Gateway.Addresses = addressStrings(GatewayAddresses(in.Tunnel, kept))
		s.Gateway.Egress = EgressPorts(in.Tunnel)
		s.Ready = gatewayReadiness(s, in.GatewayRefused, kept)
	}
	return s
}

// gatewayStatus is that of the active gateway; while there is none, the key is still known from those that stand by, or, while all pods are
// replaced, from before: it never changes.
func gatewayStatus(t *v1alpha1.TenantTunnel, kept []v1alpha1.TunnelMember) *v1alpha1.GatewayStatus {
	g := &v1alpha1.GatewayStatus{}
	for _, m := range gateways(kept) {
		if g.PublicKey == "" {
			g.PublicKey = m.Status.PublicKey
		}
		if meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionReady) {
			return &v1alpha1.GatewayStatus{PublicKey: m.Status.PublicKey, Active: m.Name}
		}
	}
	if g.PublicKey == "" && t.Status.Gateway != nil {
		g.PublicKey = t.Status.Gateway.PublicKey
	}
	return g
}

// gateways are a tunnel's registered gateways: those that are ready first, of these the one that became so last, as the one before
// may not have been heard of again.
func gateways(members []v1alpha1.TunnelMember) (out []*v1alpha1.TunnelMember) {
	since := func(m *v1alpha1.TunnelMember) time.Time {
		if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Status == metav1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
		return time.Time{}
	}
	for i := range members {
		if m := &members[i]; isGateway(m) && m.Status.PublicKey != "" {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *v1alpha1.TunnelMember) int {
		return cmp.Or(since(b).Compare(since(a)), olderMember(a, b))
	})
	return out
}

func readiness(counts v1alpha1.MemberCounts, waiting []string, applied int, problems []Problem) Decision {
	exhausted, why := affected(problems, ReasonPoolExhausted)
	without, cause := affected(problems, ReasonDatapathUnavailable)
	switch {
	case len(exhausted) > 0:
		return Decision{ReasonPoolExhausted, fmt.Sprintf("%s; without an address: %s", why, list(exhausted))}
	case len(without) > 0:
		return Decision{ReasonDatapathUnavailable, fmt.Sprintf("%s; without a data path: %s", cause, list(without))}
	case len(waiting) > 0:
		return Decision{ReasonMembersNotReady, fmt.Sprintf("%d of %d members are ready; not ready: %s", counts.Ready, counts.Total, list(waiting))}
	case counts.Total > 0:
		return Decision{ReasonAllReady, fmt.Sprintf("all %d members are ready", counts.Total)}
	case applied > 0:
		return Decision{ReasonMembersNotReady, "the first members are joining"}
	default:
		return Decision{ReasonNoMembers, "no pod has joined yet"}
	}
}

// affected are the pods that have a problem, and what one of them says.
func affected(problems []Problem, reason Reason) (pods []string, why string) {
	for _, p := range problems {
		if p.Reason == reason {
			pods, why = append(pods, p.Pod), p.Message
		}
	}
	slices.Sort(pods)
	return pods, why
}

// IsReady says whether the tunnel works for everybody in it.
func (s Status) IsReady() bool {
	return s.Ready.Reason == ReasonAllReady || s.Ready.Reason == ReasonNoMembers
}

// Condition is a Decision as a condition. The time of the last transition is that of the current one while the status stays the
// same, and now otherwise.
func Condition(current []metav1.Condition, kind string, ok bool, d Decision, generation int64, now metav1.Time) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: string(d.Reason), Message: bound(d.Message, 1024),
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now.Truncate(1e9))}
	if ok {
		c.Status = metav1.ConditionTrue
	}
	if old := meta.FindStatusCondition(current, kind); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}

// bound cuts a message that quotes what tenants wrote, on a character's boundary.
func bound(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n -= len("..."); n > 0 && s[n]&0xc0 == 0x80; n-- { // not inside a character
	}
	return s[:n] + "..."
}
