package controller

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func memberOf(name string, uid types.UID, address string) v1alpha1.TunnelMember {
	return v1alpha1.TunnelMember{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid},
		Spec: v1alpha1.TunnelMemberSpec{Tunnel: "main", PodUID: "pod-" + string(uid), Addresses: []string{address}}}
}

func TestOverlay(t *testing.T) {
	start := time.Unix(1000, 0)
	fresh := memberOf("a", "2", "fd00::2")
	registered := memberOf("a", "2", "fd00::1")
	registered.Status.PublicKey = goodKey
	for name, c := range map[string]struct {
		cached []v1alpha1.TunnelMember
		after  time.Duration
		uid    types.UID // of the one member that is believed in; empty: none
		addr   string
		kept   bool // the write is still waited for
	}{
		"not seen yet":                   {nil, 0, "2", "fd00::2", true},
		"not seen for too long":          {nil, time.Minute, "", "", false},
		"the replaced one is seen":       {[]v1alpha1.TunnelMember{memberOf("a", "1", "fd00::1")}, 0, "2", "fd00::2", true},
		"the old spec is seen":           {[]v1alpha1.TunnelMember{registered}, 0, "2", "fd00::2", true},
		"the write is seen":              {[]v1alpha1.TunnelMember{fresh}, 0, "2", "fd00::2", false},
		"somebody else's is seen":        {[]v1alpha1.TunnelMember{memberOf("a", "3", "fd00::3")}, 0, "3", "fd00::3", false},
		"the replaced one, for too long": {[]v1alpha1.TunnelMember{memberOf("a", "1", "fd00::1")}, time.Minute, "1", "fd00::1", false},
	} {
		r := &record{written: map[string]written{"a": {member: fresh, replaced: "1", at: start}}}
		got := r.overlay(c.cached, start.Add(c.after))
		if c.uid == "" && len(got) != 0 || c.uid != "" && (len(got) != 1 || got[0].UID != c.uid || got[0].Spec.Addresses[0] != c.addr) {
			t.Errorf("%s: believes in %+v, want UID %s with %s", name, got, c.uid, c.addr)
		}
		if _, kept := r.written["a"]; kept != c.kept {
			t.Errorf("%s: write waited for: %v, want %v", name, kept, c.kept)
		}
		if name == "the old spec is seen" && got[0].Status.PublicKey != goodKey {
			t.Errorf("%s: lost the status of the cache", name)
		}
	}
}

func TestProblemsAreReportedOnce(t *testing.T) {
	r := &record{}
	problem := []tenant.Problem{{Pod: "a", PodUID: "1", Decision: tenant.Decision{Reason: tenant.ReasonPoolExhausted}}}
	for i, want := range []int{1, 0, 0} {
		if got := len(r.unreported(problem)); got != want {
			t.Errorf("time %d: %d reported, want %d", i, got, want)
		}
	}
	r.unreported(nil)
	if got := len(r.unreported(problem)); got != 1 {
		t.Errorf("a problem that came back: %d reported, want 1", got)
	}
}
