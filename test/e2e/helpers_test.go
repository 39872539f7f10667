package e2e

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/tenantwire/tenantwire/test/kit"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// restart is what kubectl rollout restart does.
func restart(d *appsv1.Deployment) {
	if d.Spec.Template.Annotations == nil {
		d.Spec.Template.Annotations = map[string]string{}
	}
	d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = time.Now().Format(time.RFC3339Nano)
}

// refused says whether a request failed because nobody listens, at the first packet or, where the far end decides, right after.
func refused(r kit.Result) bool {
	return strings.Contains(r.Stdout, "connection refused") || strings.Contains(r.Stdout, "connection reset") || strings.Contains(r.Stdout, "EOF")
}
