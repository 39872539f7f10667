package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// judged gives a tunnel the operator's verdict.
func (b *bench) judged(name string, ready metav1.ConditionStatus, reason string) {
	b.Helper()
	var t v1alpha1.TenantTunnel
	must(b.T, cluster.admin.Get(b.Context(), client.ObjectKey{Namespace: b.namespace, Name: name}, &t))
	for _, c := range []metav1.Condition{condition("Accepted", metav1.ConditionTrue, "Accepted", ""), condition("Ready", ready, reason, "")} {
		c.ObservedGeneration = t.Generation
		meta.SetStatusCondition(&t.Status.Conditions, c)
	}
	must(b.T, cluster.admin.Status().Update(b.Context(), &t))
}

// member makes one whose data path is up.
func (b *bench) member(name, tunnel string) {
	b.Helper()
	m := testMember(name, metav1.Condition{}, func(m *v1alpha1.TunnelMember) { m.Namespace, m.Spec.Tunnel, m.Spec.PodUID = b.namespace, tunnel, name })
	must(b.T, cluster.admin.Create(b.Context(), &m))
	m.Status = v1alpha1.TunnelMemberStatus{Datapath: v1alpha1.DatapathNetstack, Conditions: []metav1.Condition{condition("Ready", metav1.ConditionTrue, "DataPathUp", "")}}
	must(b.T, cluster.admin.Status().Update(b.Context(), &m))
}

func TestStatusOfCluster(t *testing.T) {
	b := newBench(t)
	if code, out, errOut := b.run(t.Context(), "", "status"); code != ExitOK || out != "" || !strings.Contains(errOut, "no tunnels found in namespace "+b.namespace) {
		t.Errorf("empty: %d %q %q", code, out, errOut)
	}
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	b.judged("net", metav1.ConditionTrue, "AllMembersReady")
	b.member("web", "net")
	out, _ := b.does("status", "net")
	for _, want := range []string{"net ", "1/1", "Netstack:1", ":51820", "web ", "the right to create pods/portforward is missing in namespace " + b.namespace} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, _ := b.does("status", "--live=false"); strings.Contains(out, "portforward") {
		t.Errorf("pods are asked:\n%s", out)
	}
	b.judged("net", metav1.ConditionFalse, "MembersNotReady")
	code, out, errOut := b.run(t.Context(), "", "status", "-o", "json")
	var r report
	must(t, json.Unmarshal([]byte(out), &r))
	if code != ExitUnhealthy || errOut != "" || r.APIVersion != "cli.tenantwire.dev/v1alpha1" || r.Healthy || len(r.Tunnels) != 1 || r.Tunnels[0].Ready.Reason != "MembersNotReady" {
		t.Errorf("%d %q %+v", code, errOut, r)
	}
	b.fails([]string{"has no TenantTunnel \"other\"; it has net"}, "status", "other")
	if code, out, errOut := b.run(t.Context(), "", "status", "-A"); code != ExitFailed && code != ExitUnhealthy || !strings.Contains(out+errOut, b.namespace) {
		t.Errorf("everywhere: %d %q %q", code, out, errOut)
	}
	if _, out, _ := b.run(t.Context(), "", "__complete", "wg", ""); !strings.HasPrefix(out, "web\n") {
		t.Errorf("completes %q", out)
	}
	b.fails([]string{"namespace " + b.namespace}, "wg", "web")
}

// shared is a buffer that is read while it is written.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestStatusWatch(t *testing.T) {
	b := newBench(t)
	b.tunnel("net", v1alpha1.GatewayClusterIP)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out shared
	done := make(chan int)
	go func() {
		done <- Run(ctx, "test", []string{"status", "--kubeconfig", cluster.kubeconfig, "-n", b.namespace, "--watch", "--live=false"}, Streams{In: strings.NewReader(""), Out: &out, Err: &out})
	}()
	shows := func(want string) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !strings.Contains(out.String(), want); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%q is not shown:\n%s", want, out.String())
			}
		}
	}
	shows("NotYet")
	b.judged("net", metav1.ConditionFalse, "MembersNotReady")
	shows("MembersNotReady")
	b.member("web", "net")
	shows("web ")
	b.judged("net", metav1.ConditionTrue, "AllMembersReady")
	shows("True       True ") // accepted and ready
	time.Sleep(2 * settling)
	cancel()
	if code := <-done; code != ExitOK {
		t.Errorf("ends with %d after\n%s", code, out.String())
	}
}
