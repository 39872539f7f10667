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

// answered asks from a pod until it is answered: what the tunnel does not carry goes by the cluster's own DNS and rules, which follow
// when they can.
func answered(n *kit.Namespace, pod, url string) kit.Hello {
	n.T.Helper()
	h, err := kit.ParseHello(n.EventuallyApp(pod, "get", url))
	if err != nil {
		n.T.Fatalf("get %s in %s/%s: %v", url, n.Name, pod, err)
	}
	return h
}

// unanswered says whether a request failed because nobody said anything, in the words of net and net/http.
func unanswered(r kit.Result) bool {
	return strings.Contains(r.Stdout, "deadline exceeded") || strings.Contains(r.Stdout, "i/o timeout") || strings.Contains(r.Stdout, "connection timed out")
}

// refused says whether a request failed because nobody listens, at the first packet or, where the far end decides, right after.
func refused(r kit.Result) bool {
	return strings.Contains(r.Stdout, "connection refused") || strings.Contains(r.Stdout, "connection reset") || strings.Contains(r.Stdout, "EOF")
}
