package tenant

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func joinedPod(name string, uid types.UID) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: uid, Labels: map[string]string{v1alpha1.LabelTunnel: "main"}}}
}

func asMember(d DesiredMember) v1alpha1.TunnelMember {
	return v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: d.Name, UID: "m-" + d.PodUID},
		Spec: v1alpha1.TunnelMemberSpec{Tunnel: d.Tunnel, PodUID: string(d.PodUID), Addresses: d.Addresses, Ports: d.Ports}}
}

func deletions(p Plan) (names []string) {
	for _, m := range p.Delete {
		names = append(names, m.Name+"/"+m.Spec.PodUID)
	}
	return names
}

func applied(p Plan) (names []string) {
	for _, m := range p.Apply {
		names = append(names, fmt.Sprintf("%s/%s over %q", m.Name, m.PodUID, m.Existing))
	}
	return names
}

func TestPlan(t *testing.T) {
	tun := tunnelWith("t", "", "10.0.0.0/24")
	member := func(name string, uid types.UID, change func(*v1alpha1.TunnelMember)) v1alpha1.TunnelMember {
		a := NewAllocator(tun)
		addresses, _ := a.Take(uid)
		m := asMember(DesiredMember{Name: name, PodUID: uid, Tunnel: "main", Addresses: addresses})
		if change != nil {
			change(&m)
		}
		return m
	}
	pod := func(name string, uid types.UID, change func(*corev1.Pod)) corev1.Pod {
		p := joinedPod(name, uid)
		if change != nil {
			change(&p)
		}
		return p
	}
	for name, c := range map[string]struct {
		pods          []corev1.Pod
		members       []v1alpha1.TunnelMember
		deleted       bool
		apply, remove []string
	}{
		"a pod joins":             {pods: []corev1.Pod{joinedPod("a", "1")}, apply: []string{`a/1 over ""`}},
		"a member is as it is":    {pods: []corev1.Pod{joinedPod("a", "1")}, members: []v1alpha1.TunnelMember{member("a", "1", nil)}},
		"a pod took over a name":  {pods: []corev1.Pod{joinedPod("a", "2")}, members: []v1alpha1.TunnelMember{member("a", "1", nil)}, apply: []string{`a/2 over ""`}, remove: []string{"a/1"}},
		"a pod went away":         {members: []v1alpha1.TunnelMember{member("a", "1", nil)}, remove: []string{"a/1"}},
		"a pod changed tunnels":   {pods: []corev1.Pod{joinedPod("a", "1")}, members: []v1alpha1.TunnelMember{member("a", "1", func(m *v1alpha1.TunnelMember) { m.Spec.Tunnel = "other" })}, apply: []string{`a/1 over ""`}, remove: []string{"a/1"}},
		"another tunnel's member": {members: []v1alpha1.TunnelMember{member("a", "1", func(m *v1alpha1.TunnelMember) { m.Spec.Tunnel = "other" })}},
		"the tunnel is gone":      {deleted: true, pods: []corev1.Pod{joinedPod("a", "1")}, members: []v1alpha1.TunnelMember{member("a", "1", nil)}, remove: []string{"a/1"}},
		"a pod succeeded":         {pods: []corev1.Pod{pod("a", "1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, members: []v1alpha1.TunnelMember{member("a", "1", nil)}, remove: []string{"a/1"}},
		"a pod failed":            {pods: []corev1.Pod{pod("a", "1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}},
		"a pod is going":          {pods: []corev1.Pod{pod("a", "1", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}, members: []v1alpha1.TunnelMember{member("a", "1", nil)}},
		"a pod goes unjoined":     {pods: []corev1.Pod{pod("a", "1", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}},
		"another namespace's pod": {pods: []corev1.Pod{pod("a", "1", func(p *corev1.Pod) { p.Namespace = "x" })}},
		"ports changed":           {pods: []corev1.Pod{pod("a", "1", func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationExpose: "22"} })}, members: []v1alpha1.TunnelMember{member("a", "1", nil)}, apply: []string{`a/1 over "m-1"`}},
		"addresses of before":     {pods: []corev1.Pod{joinedPod("a", "1")}, members: []v1alpha1.TunnelMember{member("a", "1", func(m *v1alpha1.TunnelMember) { m.Spec.Addresses = []string{"fd99::1"} })}, apply: []string{`a/1 over "m-1"`}},
		"one address twice": {pods: []corev1.Pod{joinedPod("a", "1"), joinedPod("b", "2")}, members: []v1alpha1.TunnelMember{member("a", "1", nil), member("b", "2", func(m *v1alpha1.TunnelMember) { m.Spec.Addresses[1] = "10.0.0.1" })},
			apply: []string{`b/2 over "m-2"`}},
	} {
		in := Inputs{Tunnel: tun, Pods: c.pods, Members: c.members}
		if c.deleted {
			in.Tunnel = nil
		}
		p := NewPlan(in, "main")
		if diff := cmp.Diff(c.apply, applied(p)); diff != "" {
			t.Errorf("%s: applied: -want +got\n%s", name, diff)
		}
		if diff := cmp.Diff(c.remove, deletions(p)); diff != "" {
			t.Errorf("%s: deleted: -want +got\n%s", name, diff)
		}
	}
}

// A pool that is added later gives everybody an IPv4 address and leaves the IPv6 address alone.
func TestPoolAddedLater(t *testing.T) {
	before := NewPlan(Inputs{Tunnel: tunnelWith("t", "", ""), Pods: []corev1.Pod{joinedPod("a", "1")}}, "main")
	after := NewPlan(Inputs{Tunnel: tunnelWith("t", "", "10.0.0.0/24"), Pods: []corev1.Pod{joinedPod("a", "1")},
		Members: []v1alpha1.TunnelMember{asMember(before.Apply[0])}}, "main")
	if len(after.Apply) != 1 || len(after.Apply[0].Addresses) != 2 || after.Apply[0].Addresses[0] != before.Apply[0].Addresses[0] {
		t.Errorf("before %v, after %v", before.Apply, after.Apply)
	}
}

// Pods come, go and are replaced at random: carrying a plan out leads to a state that needs no plan, one member for each pod, and
// no address changes under a pod that stays.
func TestPlanProperties(t *testing.T) {
	for seed := range int64(100) {
		rnd := rand.New(rand.NewSource(seed)) //nolint:gosec // a test wants to be repeatable
		tun := tunnelWith(fmt.Sprint(seed), "", "10.0.0.0/26")
		pods := map[string]corev1.Pod{}
		var members []v1alpha1.TunnelMember
		for round := range 15 {
			for i := range 50 {
				name := fmt.Sprintf("p-%d", i)
				switch rnd.Intn(4) {
				case 0:
					delete(pods, name)
				case 1:
					pods[name] = joinedPod(name, types.UID(fmt.Sprintf("%s-%d", name, round)))
				}
			}
			in := Inputs{Tunnel: tun, Members: members}
			for _, p := range pods {
				in.Pods = append(in.Pods, p)
			}
			plan := NewPlan(in, "main")
			if len(plan.Problems) > 0 {
				t.Fatalf("seed %d: %v", seed, plan.Problems)
			}
			next := carryOut(members, plan)
			in.Members = next
			if again := NewPlan(in, "main"); len(again.Apply)+len(again.Delete) > 0 {
				t.Fatalf("seed %d: does not settle: %v, %v", seed, applied(again), deletions(again))
			}
			for _, m := range next {
				if i := slices.IndexFunc(members, func(o v1alpha1.TunnelMember) bool { return o.UID == m.UID }); i >= 0 && !slices.Equal(members[i].Spec.Addresses, m.Spec.Addresses) {
					t.Fatalf("seed %d: %s went from %v to %v", seed, m.Name, members[i].Spec.Addresses, m.Spec.Addresses)
				}
			}
			if len(next) != len(pods) {
				t.Fatalf("seed %d: %d members of %d pods", seed, len(next), len(pods))
			}
			members = next
		}
	}
}

func carryOut(members []v1alpha1.TunnelMember, p Plan) []v1alpha1.TunnelMember {
	out := slices.DeleteFunc(slices.Clone(members), func(m v1alpha1.TunnelMember) bool {
		return slices.ContainsFunc(p.Delete, func(d v1alpha1.TunnelMember) bool { return d.UID == m.UID })
	})
	for _, d := range p.Apply {
		out = slices.DeleteFunc(out, func(m v1alpha1.TunnelMember) bool { return m.Name == d.Name })
		out = append(out, asMember(d))
	}
	return out
}

func TestStatus(t *testing.T) {
	tun := tunnelWith("t", "", "10.0.0.0/28")
	in := Inputs{Tunnel: tun}
	if s := NewPlan(in, "main").Status; s.Ready.Reason != ReasonNoMembers || !s.IsReady() || !s.Accepted.Accepted() {
		t.Errorf("empty tunnel: %+v", s)
	}
	for i := range 16 {
		in.Pods = append(in.Pods, joinedPod(fmt.Sprintf("p-%02d", i), types.UID(fmt.Sprint(i))))
	}
	p := NewPlan(in, "main")
	if s := p.Status; s.Ready.Reason != ReasonPoolExhausted || s.IsReady() || !strings.Contains(s.Ready.Message, "p-14, p-15") || len(p.Apply) != 14 {
		t.Errorf("exhausted: %+v", s)
	}
	in.Members, in.Pods = carryOut(nil, p), in.Pods[:14]
	for i := range in.Members {
		in.Members[i].Status.Datapath = []v1alpha1.DatapathChoice{v1alpha1.DatapathNetstack, v1alpha1.DatapathKernel}[i%2]
		if i > 0 {
			in.Members[i].Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}}
		}
	}
	s := NewPlan(in, "main").Status
	want := []v1alpha1.DatapathCount{{Datapath: v1alpha1.DatapathKernel, Members: 7}, {Datapath: v1alpha1.DatapathNetstack, Members: 7}}
	if s.Ready.Reason != ReasonMembersNotReady || s.Members != (v1alpha1.MemberCounts{Total: 14, Ready: 13}) || !cmp.Equal(s.Datapaths, want) ||
		!strings.Contains(s.Ready.Message, "p-00") {
		t.Errorf("one is not ready: %+v", s)
	}
	in.Members[0].Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse,
		Reason: string(ReasonDatapathUnavailable), Message: "no Kernel here"}}
	if s := NewPlan(in, "main").Status; s.Ready.Reason != ReasonDatapathUnavailable || s.IsReady() || !s.Ready.NeedsChange() ||
		s.Ready.Message != "no Kernel here; without a data path: p-00" {
		t.Errorf("one cannot have its datapath: %+v", s)
	}
	in.Members[0].Status.Conditions = in.Members[1].Status.Conditions
	if s := NewPlan(in, "main").Status; s.Ready.Reason != ReasonAllReady || !s.IsReady() {
		t.Errorf("all ready: %+v", s)
	}
}

func TestConditionKeepsItsTime(t *testing.T) {
	at := func(s int64) metav1.Time { return metav1.NewTime(time.Unix(s, 5)) }
	first := Condition(nil, "Ready", false, Decision{ReasonMembersNotReady, "1 of 2"}, 1, at(10))
	second := Condition([]metav1.Condition{first}, "Ready", false, Decision{ReasonMembersNotReady, "1 of 3"}, 2, at(20))
	third := Condition([]metav1.Condition{second}, "Ready", true, Decision{ReasonAllReady, strings.Repeat("é", 2000)}, 2, at(30))
	if first.LastTransitionTime.Unix() != 10 || second.LastTransitionTime.Unix() != 10 || third.LastTransitionTime.Unix() != 30 {
		t.Errorf("times %v, %v, %v", first.LastTransitionTime, second.LastTransitionTime, third.LastTransitionTime)
	}
	if len(third.Message) > 1024 || !strings.HasSuffix(third.Message, "é...") {
		t.Errorf("message of %d bytes ends in %q", len(third.Message), third.Message[len(third.Message)-8:])
	}
}
