package webhook

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/tenantwire/tenantwire/injector"
)

// maxNote is the API server's bound on an Event's note in bytes.
const maxNote = 1024

// eventsOf tells of what whoever looks at a workload cannot see otherwise: pods that were refused, and pods that opted out. The
// pod does not exist yet or never will, so the Event regards its controller, or the namespace.
func eventsOf(recorder events.EventRecorder) func(decided) {
	return func(d decided) {
		kind := ""
		switch {
		case d.Outcome == injector.Deny:
			kind = corev1.EventTypeWarning
		case d.Reason == injector.OptedOut:
			kind = corev1.EventTypeNormal
		}
		if kind != "" {
			recorder.Eventf(regarding(d), nil, kind, string(d.Reason), "AdmitPod", "%s", note(d.Message))
		}
	}
}

func regarding(d decided) *corev1.ObjectReference {
	if d.pod != nil {
		if owner := metav1.GetControllerOf(d.pod); owner != nil {
			return &corev1.ObjectReference{APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: d.namespace, Name: owner.Name, UID: owner.UID}
		}
	}
	// With a namespace, although the kind has none: the Event then lies where the tenant can read it.
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Namespace: d.namespace, Name: d.namespace}
}

func note(message string) string {
	if len(message) > maxNote {
		return strings.ToValidUTF8(message[:maxNote-3], "") + "..."
	}
	return message
}
