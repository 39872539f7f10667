package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// wireStory is something that happens while a marker is sent by name as fast as it goes, by an application that does not care.
type wireStory struct {
	name string
	do   func(t *testing.T, s *wireStage)
}

// wireStage is a tenant, the ordinary namespace beside it, and the marker of the story that is being told.
type wireStage struct {
	*invTenant
	bystander *invTenant
	marker    string
}

// No plaintext of what the tunnel carries, whatever happens. Every story has a capture of its own and breaks when its marker is
// seen: in the request's path, its Host header or its answer. Another marker, sent by name between two pods of a namespace that
// did not opt in, shows that this very capture would have seen it.
func TestInvariant4NoPlaintextOfCarriedTrafficOnTheWire(t *testing.T) {
	kit.NeedNodes(t)
	s := &wireStage{invTenant: invNewTenant(t, cluster), bystander: invNewBystander(t, cluster)}
	for _, story := range []wireStory{
		{"while a pod starts", applicationStartsAtOnce},
		{"while the operator is down", operatorIsDown},
		{"while pods are replaced", podsAreReplaced},
		{"while the Service has no endpoints", serviceHasNoEndpoints},
		{"while and after the Service is deleted", serviceIsDeleted},
		{"while the sidecars are killed again and again", sidecarsAreKilled},
		{"while and after the tunnel is deleted", tunnelIsDeleted},
	} {
		t.Run(story.name, func(t *testing.T) { tell(t, s, story) })
	}
}

func tell(t *testing.T, s *wireStage, story wireStory) {
	id := strconv.FormatUint(rand.Uint64(), 36)
	s.marker = "secret-" + id
	control := "plain-" + id
	captures := invCapture(t, cluster)
	talker := s.talk(t, "talker-"+id)
	if story.name != "while a pod starts" {
		s.WaitReady()
		kit.Eventually(t, kit.Deadline, "answers to the application", func() error {
			if n := s.seen(t, talker); n.OK < 3 {
				return fmt.Errorf("%d answered, %d failed", n.OK, len(n.Failed))
			}
			return nil
		})
	}
	story.do(t, s)
	s.bystander.EventuallyApp("client", "get", "-n", "5", "http://web/"+control)
	seen := s.seen(t, talker)
	p := invPod(talker)
	s.Remove(p)
	captures.stop()

	if n := captures.count(control); n.Marker == 0 {
		t.Errorf("the capture does not see plaintext, so it shows nothing: %+v", n)
	}
	n := captures.count(s.marker)
	if n.Marker > 0 {
		t.Errorf("the marker was seen in plaintext in %d packets: %v", n.Marker, n.MarkerFlows)
	}
	if n.WireGuardData == 0 || seen.OK == 0 {
		t.Errorf("%d requests were answered, by %d packets of WireGuard data: the test shows nothing", seen.OK, n.WireGuardData)
	}
	t.Logf("%d packets, %d of WireGuard data; %d requests answered, %d failed", n.Packets, n.WireGuardData, seen.OK, len(seen.Failed))
}

// talk starts an application that asks at once and all the time: in an init container, which runs before the rest of the pod, and in
// its main container. Every spelling of the name leads into the tunnel.
func (s *wireStage) talk(t *testing.T, name string) string {
	t.Helper()
	urls := []string{"http://web/" + s.marker + "?say=" + s.marker, "http://web." + s.Name + "/" + s.marker, "http://web." + s.Name + ".svc.cluster.local/" + s.marker}
	p := invPod(name, append([]string{"get", "-n", "1000000000", "-interval", "20ms", "-timeout", "1s"}, urls...)...)
	early := kit.Container("early", append([]string{"get", "-n", "3"}, urls...)...)
	p.Spec.InitContainers = []corev1.Container{early}
	s.Create(p)
	return name
}

func (s *wireStage) seen(t *testing.T, pod string) kit.Requests {
	t.Helper()
	text, err := s.Logs(t.Context(), pod, corev1.PodLogOptions{Container: kit.AppContainer})
	if err != nil {
		t.Fatal(err)
	}
	var r kit.Requests
	for line := range strings.Lines(text) {
		if _, err := kit.ParseHello(line); err != nil {
			r.Failed = append(r.Failed, line)
			continue
		}
		r.OK++
	}
	return r
}

func applicationStartsAtOnce(t *testing.T, s *wireStage) {
	for i := range 3 { // some pods at once, so that some of them start before their peers know of them
		s.talk(t, fmt.Sprintf("early-%d", i))
	}
	s.WaitReady()
	time.Sleep(time.Second)
	for i := range 3 {
		s.Remove(invPod(fmt.Sprintf("early-%d", i)))
	}
}

func sidecarsAreKilled(t *testing.T, s *wireStage) {
	for range 3 {
		for _, p := range s.Pods("") {
			killNow(t, &p)
		}
		time.Sleep(2 * time.Second)
	}
	s.WaitReady() // through the kubelet's back-off
	time.Sleep(2 * time.Second)
}

// killNow ends the sidecar's process if there is one: it may just be between two.
func killNow(t *testing.T, p *corev1.Pod) {
	t.Helper()
	st := kit.SidecarStatus(p)
	if st == nil || st.State.Running == nil {
		return
	}
	_, id, _ := strings.Cut(st.ContainerID, "://")
	kit.NodeExec(t, p.Spec.NodeName, "sh", "-c", "ctr -n k8s.io tasks kill -s SIGKILL "+id+" 2>/dev/null || true")
}

func operatorIsDown(t *testing.T, s *wireStage) {
	invOperatorDown(t)
	time.Sleep(time.Second)
	for i := range s.web {
		kit.KillSidecar(t, &s.web[i])
	}
	s.WaitReady()
	time.Sleep(2 * time.Second)
	invOperatorUp(t)
}

func podsAreReplaced(_ *testing.T, s *wireStage) {
	kit.Change(s.Namespace, "web", &appsv1.Deployment{}, restart)
	s.web = s.WaitRollout("web")
	time.Sleep(time.Second)
}

func serviceHasNoEndpoints(_ *testing.T, s *wireStage) {
	s.Scale("web", 0)
	time.Sleep(3 * time.Second)
	s.web = s.Scale("web", 2)
	time.Sleep(time.Second)
}

func serviceIsDeleted(_ *testing.T, s *wireStage) {
	s.Remove(kit.Service("web"))
	time.Sleep(3 * time.Second)
	s.Create(kit.Service("web", fmt.Sprintf("80:%d", invWebPort)))
	time.Sleep(time.Second)
}

func tunnelIsDeleted(t *testing.T, s *wireStage) {
	tunnel := &v1alpha1.TenantTunnel{}
	tunnel.Name = "main"
	s.Remove(tunnel)
	s.WaitGone(tunnel)
	kit.Eventually(t, kit.Deadline, "refusal of requests after the tunnel's end", func() error {
		if r := s.Exec("client", kit.AppContainer, "get", "http://web/"+s.marker); r.Code == 0 {
			return errors.New(r.String())
		}
		return nil
	})
	// The application's crash, the sidecar's crash and the pod's end change nothing about it.
	for _, p := range s.Pods("") {
		killNow(t, &p)
	}
	time.Sleep(3 * time.Second)
	if err := s.TryCreate(invPod("late", "get", "http://web/"+s.marker)); err == nil {
		t.Error("a pod was admitted to a namespace that is opted in and has no tunnel: it would speak plaintext")
	}
}
