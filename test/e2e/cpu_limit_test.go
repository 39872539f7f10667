package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// A namespace may give each container a part of a CPU. A sidecar that has more to do than that is seldom stopped by the kernel, which would be for
// most of a tenth of a second each time: it spreads what it has.
func TestCPULimit(t *testing.T) {
	kit.NeedNodes(t)
	t.Parallel()
	n := cluster.Namespace(t)
	n.Create(&corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "cpu", Namespace: n.Name}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Default: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("150m")}}}}})
	n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"))
	server := web(n, 1)[0].Name
	n.Create(kit.Pod("client", "serve", "http=:8081"))
	n.WaitReady("client")
	n.Ask("client", "http://web")
	debugging(n, v1alpha1.DebugForbidden, v1alpha1.DebugAllowed)

	before := map[string]throttling{"client": throttled(t, n, "client"), server: throttled(t, n, server)}
	isMeasured(t, n, "client", server)
	for pod, was := range before {
		is := throttled(t, n, pod)
		took, stopped := time.Duration(is.periods-was.periods)*100*time.Millisecond, is.stopped-was.stopped
		t.Logf("the sidecar of %s was stopped for %s of %s", pod, stopped, took)
		if took < time.Second || stopped > took/4 {
			t.Errorf("the sidecar of %s was stopped for %s of %s, want some seconds, and at most a quarter of them", pod, stopped, took)
		}
	}
}

// throttling is for how long the kernel stopped a container's processes, and in how many periods, mostly of 100 ms, they had something to do.
type throttling struct {
	stopped time.Duration
	periods int
}

// throttled reads that of a pod's sidecar in the control group that it sees, of version 1 or 2.
func throttled(t *testing.T, n *kit.Namespace, name string) (out throttling) {
	t.Helper()
	pod := &corev1.Pod{}
	n.Read(name, pod)
	file := "/sys/fs/cgroup/cpu.stat"
	if _, err := os.Stat("/sys/fs/cgroup/cpu"); err == nil { // version 1; the nodes share the machine's
		file = "/sys/fs/cgroup/cpu/cpu.stat"
	}
	for line := range strings.Lines(invSidecarFile(t, pod, file)) {
		var key string
		var value int64
		if _, err := fmt.Sscan(line, &key, &value); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		switch key {
		case "nr_periods":
			out.periods = int(value)
		case "throttled_time":
			out.stopped = time.Duration(value)
		case "throttled_usec":
			out.stopped = time.Duration(value) * time.Microsecond
		}
	}
	return out
}
