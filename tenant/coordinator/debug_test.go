package coordinator

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
)

// Each thing that is done has an Event whose text shows: Events of one reason and action are a series with the first one's text.
func TestDebuggingIsTold(t *testing.T) {
	texts := map[string]string{} // by action
	f, srv := start(t, func(o *Options) {
		o.Event = func(_ corev1.ObjectReference, _ string, reason tenant.Reason, action, message string) {
			if before, ok := texts[action]; reason != tenant.ReasonDebugging || ok && before != message {
				t.Errorf("%s %s: %q and %q", reason, action, before, message)
			}
			texts[action] = message
		}
	})
	self := f.add(0)
	all := []string{`packets are captured; filter ""`, `packets are captured; filter "port 80"`, "the tunnel to 10.0.0.1 is measured"}
	for _, text := range append(all, all...) {
		if code, answer := call(t, srv, wire.ReportPath, self, wire.Report{Ready: true, Debug: text}); code != 204 {
			t.Fatal(code, answer)
		}
	}
	if len(texts) != len(all) {
		t.Errorf("told %q, want %q", texts, all)
	}

	// What a notice says of readiness is as old as its asking: it must not undo what was reported meanwhile.
	if code, answer := call(t, srv, wire.ReportPath, self, wire.Report{Reason: "down"}); code != 204 {
		t.Fatal(code, answer)
	}
	if code, answer := call(t, srv, wire.ReportPath, self, wire.Report{Ready: true, Debug: all[0]}); code != 204 {
		t.Fatal(code, answer)
	}
	if c := f.members["pod-0"].Status.Conditions[0]; c.Status != metav1.ConditionFalse || c.Message != "down" {
		t.Errorf("condition %+v", c)
	}
}
