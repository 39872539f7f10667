package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/test/kit"
)

const steady = 20 * time.Millisecond // between two requests of background traffic

// A sidecar that crashes comes back as the same member, and what it carried works again by itself. Nothing else restarts.
func TestRestartOfASidecar(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	server := web(n, 1)[0]
	tr := n.StartRequests("client", steady, "http://web")
	var asker corev1.Pod
	n.Read("client", &asker)
	for _, p := range []*corev1.Pod{&server, &asker} {
		before := n.Member(p.Name)
		kit.KillSidecar(t, p)
		after := n.WaitSidecarRestart(p)
		tr.WaitMore(20)
		if m := n.Member(p.Name); m.Status.PublicKey != before.Status.PublicKey || m.UID != before.UID {
			t.Errorf("%s has another identity after its sidecar restarted", p.Name)
		}
		for _, s := range after.Status.ContainerStatuses {
			if s.RestartCount > 0 {
				t.Errorf("%s: container %s restarted too", p.Name, s.Name)
			}
		}
	}
	s, err := tr.Seen()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d answered, %d failed while a sidecar was away, at most %s between two", s.OK, len(s.Failed), s.MaxGap)
}

// An application that crashes is restarted as ever, beside a sidecar that stays.
func TestRestartOfAnApplication(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	p := kit.Pod("crashing", "get", "-n", "10", "-interval", "100ms", "http://web")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	n.Create(p)
	kit.Eventually(t, kit.Deadline, "restarts of the application", func() error {
		n.Read("crashing", p)
		if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].RestartCount >= 2 && s[0].LastTerminationState.Terminated.ExitCode == 0 {
			return nil
		}
		return errorf("%s", kit.Describe(p))
	})
	if s := kit.SidecarStatus(p); s.RestartCount > 0 {
		t.Errorf("the sidecar restarted %d times", s.RestartCount)
	}
}

// The data plane does not need the operator.
func TestRestartOfTheOperator(t *testing.T) {
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web", "echo"))
	echo := kit.Deployment("echo", 1, "serve", "tcp-echo=:7007")
	kit.Declare(&echo.Spec.Template.Spec, "7007")
	n.Create(kit.Service("echo", "7:7007"), echo)
	web(n, 2)
	n.WaitRollout("echo")
	tr := n.StartRequests("client", steady, "http://web")
	ping := n.StartPing("ping", "tcp", steady, "echo:7")
	tr.WaitMore(20)

	if err := cluster.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(kit.SystemNamespace),
		client.MatchingLabels{"app.kubernetes.io/name": kit.OperatorName}); err != nil {
		t.Fatal(err)
	}
	operatorReady(t)
	tr.WaitMore(50)
	// Members follow the new replicas: what joins now is known to those who were there.
	n.Scale("web", 3)
	newest := n.Pods("web")
	kit.Eventually(t, kit.Deadline, "answers from the pod that joined after the restart", func() error {
		s := tr.WaitMore(10)
		for _, p := range newest {
			if s.Hosts[p.Name] == 0 {
				return errorf("%s was not asked yet: %v", p.Name, s.Hosts)
			}
		}
		return nil
	})
	tr.MustBeWhole()
	if e := ping.StopPing(); e.Lost > 0 || e.Error != "" {
		t.Errorf("an established connection: %+v", e)
	}
}

// One replica goes: its streams move to those that are there, pods are admitted all the while, and nobody's traffic notices.
func TestRestartOfOneReplica(t *testing.T) {
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 8)
	tr := n.StartRequests("client", steady, "http://web")
	const members = 9
	replicas := operatorPods(t)
	if len(replicas) != 2 {
		t.Fatalf("the operator has %d replicas, want 2", len(replicas))
	}
	for _, p := range replicas {
		if watches(t, p.Name) == 0 {
			t.Logf("no member's stream is on %s", p.Name)
		}
	}
	victim := replicas[0]
	if watches(t, victim.Name) == 0 {
		victim = replicas[1]
	}

	ask := startAsking(n)
	if err := cluster.Delete(t.Context(), &victim); err != nil {
		t.Fatal(err)
	}
	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	system.WaitGone(&victim)
	operatorReady(t)
	kit.Eventually(t, kit.Deadline, "streams on the replicas that are there", func() error {
		got := 0
		for _, p := range operatorPods(t) { // the one in its place may have been ready before it went
			got += watches(t, p.Name)
		}
		if got < members {
			return errorf("%d, want at least %d", got, members)
		}
		return nil
	})
	admitted, refused := ask.stop()
	if len(refused) > 0 {
		t.Errorf("%d of %d pods were refused while a replica went: %s", len(refused), admitted, strings.Join(refused[:min(len(refused), 5)], "\n"))
	}
	t.Logf("%d pods admitted", admitted)
	tr.WaitMore(20)
	tr.MustBeWhole()
}

// asking creates pods, as a dry run, until it is stopped. Several ask at once and pause for different times, so that the API server
// keeps connections to both replicas, and uses some of them seldom.
type asking struct {
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	mu       sync.Mutex
	admitted int
	refused  []string
}

func startAsking(n *kit.Namespace) *asking {
	ctx, cancel := context.WithCancel(n.T.Context())
	a := &asking{cancel: cancel}
	for i := range 8 {
		a.wg.Go(func() {
			for ctx.Err() == nil {
				err := n.TryCreate(kit.Pod(fmt.Sprintf("asked-%d", i)), client.DryRunAll)
				a.mu.Lock()
				if err == nil {
					a.admitted++
				} else {
					a.refused = append(a.refused, err.Error())
				}
				a.mu.Unlock()
				time.Sleep(rand.N(10 * time.Millisecond << i))
			}
		})
	}
	return a
}

func (a *asking) stop() (admitted int, refused []string) {
	a.cancel()
	a.wg.Wait()
	return a.admitted, a.refused
}

// The API server dies and comes back.
func TestRestartOfTheAPIServer(t *testing.T) {
	kit.NeedNodes(t)
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 2)
	tr := n.StartRequests("client", steady, "http://web")
	cluster.APIServer(t, "kill")
	tr.WaitMore(50)
	n.Scale("web", 3)
	kit.Eventually(t, kit.Deadline, "answers from a pod that joined since", func() error {
		if s := tr.WaitMore(10); len(s.Hosts) < 3 {
			return errorf("answers from %v", s.Hosts)
		}
		return nil
	})
	tr.MustBeWhole()
	operatorReady(t)
}

// With no API server at all, even a sidecar that restarts knows its tunnel.
func TestRestartWithoutAPIServer(t *testing.T) {
	kit.NeedNodes(t)
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	server := web(n, 1)[0]
	tr := n.StartRequests("client", steady, "http://web")
	n.Create(kit.Pod("other"))
	other := n.WaitReady("other")[0]
	n.EventuallyApp("other", "get", "http://web")
	before := n.Member("other")

	cluster.APIServer(t, "stop")
	for _, p := range []*corev1.Pod{&other, &server} {
		kit.KillSidecar(t, p)
		kit.Eventually(t, kit.Deadline, "the data path of "+p.Name+" from what it kept", func() error {
			_, err := kit.RunOnNode(t, &other, "get", "-n", "5", "http://web")
			return err
		})
	}
	cluster.APIServer(t, "start")
	tr.WaitMore(20)
	if m := n.Member("other"); m.Status.PublicKey != before.Status.PublicKey {
		t.Error("the member has another key")
	}
	// The leader could not renew its lease and starts anew. Whoever makes pods tries again, as controllers do.
	kit.Eventually(t, kit.Deadline, "a pod admitted", func() error { return n.TryCreate(kit.Pod("later")) })
	n.WaitReady("later")
	n.EventuallyApp("later", "get", "http://web")
	operatorReady(t)
}

func operatorReady(t *testing.T) {
	t.Helper()
	kit.Eventually(t, 2*kit.Deadline, "operator ready", func() error {
		pods := operatorPods(t)
		if len(pods) != 2 {
			return errorf("%d replicas", len(pods))
		}
		return readyPods(pods, 2)
	})
}

// operatorPods are the replicas that are not on their way out.
func operatorPods(t *testing.T) []corev1.Pod {
	t.Helper()
	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	return system.Pods("")
}

// watches is how many members hold a stream on a replica.
func watches(t *testing.T, replica string) (n int) {
	t.Helper()
	return metric(t, replica, "tenantwire_coordinator_watches")
}

// metric is a replica's metric without labels.
func metric(t *testing.T, replica, name string) int {
	t.Helper()
	text, err := cluster.Fetch(t.Context(), kit.SystemNamespace, replica, 8080, "metrics")
	if err != nil {
		t.Fatalf("metrics of %s: %v", replica, err)
	}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			var f float64
			if _, err := fmt.Sscan(v, &f); err != nil {
				t.Fatalf("metric %s of %s: %v", name, replica, err)
			}
			return int(f)
		}
	}
	t.Fatalf("replica %s has no metric %s", replica, name)
	return 0
}

// Thirty pods at once join within a minute, and are not planned for thirty times thirty times.
func TestScaleOfOneTunnel(t *testing.T) {
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("many"))
	plans := func() (sum int) {
		for _, p := range operatorPods(t) {
			sum += metric(t, p.Name, "tenantwire_coordinator_plans_total")
		}
		return sum
	}
	before, start := plans(), time.Now()
	const pods = 30
	d := kit.Deployment("many", pods, "serve", "http=:8080")
	kit.Declare(&d.Spec.Template.Spec, "8080")
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
	n.Create(kit.Service("many", "80:8080"), d)
	n.WaitRollout("many")
	took, planned := time.Since(start), plans()-before
	t.Logf("%d pods ready in %s, %d plans", pods, took.Round(time.Millisecond), planned)
	if planned > pods*pods/2 {
		t.Errorf("%d plans for %d joins", planned, pods)
	}
	asked := n.Pods("many")[0].Name
	kit.Eventually(t, kit.Deadline, "answers from all of them", func() error {
		answered := map[string]bool{}
		for line := range strings.Lines(n.App(asked, "get", "-n", "200", "http://many")) {
			h, err := kit.ParseHello(line)
			if err != nil {
				return err
			}
			answered[h.Host] = true
		}
		if len(answered) < pods*9/10 { // chance leaves some out
			return errorf("from %d of %d", len(answered), pods)
		}
		return nil
	})
}
