package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// datapath has a tunnel ask for one.
func datapath(d v1alpha1.DatapathChoice) func(*v1alpha1.TenantTunnelSpec) {
	return func(s *v1alpha1.TenantTunnelSpec) { s.Datapath = d }
}

// sidecarProcess is what the node sees of a pod's sidecar.
type sidecarProcess struct {
	pid               int
	uid               int
	effective, bounds uint64 // capabilities
	interfaces        string // /proc/net/dev
}

func lookAtSidecar(t *testing.T, p *corev1.Pod) sidecarProcess {
	t.Helper()
	return lookAtContainer(t, p, kit.SidecarStatus(p))
}

func lookAtContainer(t *testing.T, p *corev1.Pod, status *corev1.ContainerStatus) sidecarProcess {
	t.Helper()
	s := sidecarProcess{pid: kit.ContainerPID(t, p.Spec.NodeName, status.ContainerID)}
	for line := range strings.Lines(kit.NodeExec(t, p.Spec.NodeName, "cat", fmt.Sprintf("/proc/%d/status", s.pid))) {
		var err error
		switch key, value, _ := strings.Cut(line, ":"); key {
		case "Uid":
			_, err = fmt.Sscan(value, &s.uid)
		case "CapEff":
			_, err = fmt.Sscanf(strings.TrimSpace(value), "%x", &s.effective)
		case "CapBnd":
			_, err = fmt.Sscanf(strings.TrimSpace(value), "%x", &s.bounds)
		}
		if err != nil {
			t.Fatalf("read the sidecar's status: %q: %v", line, err)
		}
	}
	s.interfaces = kit.NodeExec(t, p.Spec.NodeName, "cat", fmt.Sprintf("/proc/%d/net/dev", s.pid))
	return s
}

// netAdmin is CAP_NET_ADMIN in a set of capabilities.
const netAdmin = 1 << 12

// eventOf waits for an Event about a pod and returns what it says.
func eventOf(n *kit.Namespace, pod, reason string) string {
	n.T.Helper()
	var note string
	kit.Eventually(n.T, kit.Deadline, fmt.Sprintf("an Event %s of %s/%s", reason, n.Name, pod), func() error {
		var events corev1.EventList
		if err := n.List(n.T.Context(), &events, client.InNamespace(n.Name)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Name == pod && e.Reason == reason {
				note = e.Message
				return nil
			}
		}
		return errorf("none among %d", len(events.Items))
	})
	return note
}

// Pods of a tunnel that says TUN have an interface of their own, and their names, ports, default deny and encryption are those of any
// other member: with or without a user namespace, beside applications that are root or not. The sidecar is not root, and has
// NET_ADMIN and nothing else.
func TestDatapathTUN(t *testing.T) {
	t.Parallel()
	cluster.NeedTUN(t)
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", kit.Exposing("web"), datapath(v1alpha1.DatapathTUN))
	server := web(n, 1)[0]
	clients := map[string]func(*corev1.Pod){
		"ordinary":   func(*corev1.Pod) {},
		"host-users": func(p *corev1.Pod) { p.Spec.HostUsers = ptr.To(true) },
		"root": func(p *corev1.Pod) {
			p.Spec.SecurityContext = nil
			p.Spec.Containers[0].SecurityContext = nil
		},
		"host-path": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc"}}}}
		},
	}
	for name, change := range clients {
		p := kit.Pod(name)
		change(p)
		n.Create(p)
	}
	target := n.Member(server.Name)
	for _, name := range []string{"ordinary", "host-users", "root", "host-path"} {
		t.Run(name, func(t *testing.T) {
			p := n.WaitReady(name)[0]
			if m := n.Member(name); m.Status.Datapath != v1alpha1.DatapathTUN || m.Status.DatapathReason != "TUN was asked for" {
				t.Errorf("member status %+v", m.Status)
			}
			s := lookAtSidecar(t, &p)
			own := p.Spec.HostUsers != nil && !*p.Spec.HostUsers
			if want := name == "ordinary" || name == "root"; own != want || own != (s.uid > 65535) || !own && s.uid != 65532 {
				t.Errorf("hostUsers %v, user %d on the node", p.Spec.HostUsers, s.uid)
			}
			if s.effective != netAdmin || s.bounds != netAdmin {
				t.Errorf("the sidecar has the capabilities %x of %x, want NET_ADMIN alone", s.effective, s.bounds)
			}
			if !strings.Contains(s.interfaces, "wg0:") {
				t.Errorf("no wg0 among the pod's interfaces:\n%s", s.interfaces)
			}
			if h := n.Ask(name, "http://web"); !strings.HasPrefix(h.From, "127.0.0.1:") {
				t.Errorf("the request reached the server from %s, not from its sidecar", h.From)
			}
			address := target.Spec.Addresses[0]
			n.App(name, "get", fmt.Sprintf("http://[%s]:8080", address)) // by the route into the tunnel
			if r := n.Exec(name, kit.AppContainer, "get", fmt.Sprintf("http://[%s]:51821/metrics", address)); !refused(r) {
				t.Errorf("a port that nobody declared: %s", r)
			}
			if note := eventOf(n, name, "DatapathChosen"); !strings.Contains(note, "datapath TUN") {
				t.Errorf("event %q", note)
			}
		})
	}
	var tunnel v1alpha1.TenantTunnel
	kit.Eventually(t, kit.Deadline, "the tunnel's count by datapath", func() error {
		n.Read("main", &tunnel)
		if want := []v1alpha1.DatapathCount{{Datapath: v1alpha1.DatapathTUN, Members: 5}}; !slices.Equal(tunnel.Status.Datapaths, want) {
			return errorf("%+v, want %+v", tunnel.Status.Datapaths, want)
		}
		return nil
	})
}

// What TUN members carry is encrypted on the wire, also while a sidecar crashes, and the member comes back as who it was.
func TestDatapathTUNAfterACrash(t *testing.T) { // alone: it captures what the node sends
	cluster.NeedTUN(t)
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", kit.Exposing("web"), datapath(v1alpha1.DatapathTUN))
	web(n, 1)
	n.Create(kit.Pod("client"))
	before := n.WaitReady("client")[0]
	key := n.Member("client").Status.PublicKey
	marker := "tun-plaintext-" + n.Name
	url := "http://web/" + marker
	c := kit.StartCapture(t, before.Spec.NodeName, t.TempDir())
	n.App("client", "get", "-n", "5", url)
	kit.KillSidecar(t, &before)
	for range 10 {
		n.Exec("client", kit.AppContainer, "get", "-timeout", "1s", url) // refused or not, never in plaintext
	}
	after := n.WaitSidecarRestart(&before)
	n.EventuallyApp("client", "get", url)
	if count := c.Stop(marker); count.Marker > 0 || count.WireGuardData == 0 {
		t.Errorf("captured %+v", count)
	}
	if now := n.Member("client").Status.PublicKey; now != key {
		t.Errorf("the member came back with another key")
	}
	if s := lookAtSidecar(t, after); s.effective != netAdmin || !strings.Contains(s.interfaces, "wg0:") {
		t.Errorf("after the crash: %+v", s)
	}
}

// A tunnel's members need not have the same datapath: what the tunnel says counts when a pod is made.
func TestDatapathsTalkToEachOther(t *testing.T) {
	t.Parallel()
	cluster.NeedTUN(t)
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", kit.Exposing("on-netstack", "on-tun"), datapath(v1alpha1.DatapathNetstack), withIPv4("10.78.0.0/24"))
	n.Create(kit.Service("on-netstack", "80:8080", "53:5353/udp"), kit.Service("on-tun", "80:8080", "53:5353/udp"))
	for _, kind := range []v1alpha1.DatapathChoice{v1alpha1.DatapathNetstack, v1alpha1.DatapathTUN} {
		kit.Change(n, "main", &v1alpha1.TenantTunnel{}, func(tt *v1alpha1.TenantTunnel) { tt.Spec.Datapath = kind })
		name := "on-" + strings.ToLower(string(kind))
		p := kit.Pod(name, "serve", "http=:8080", "udp-echo=:5353")
		kit.Declare(&p.Spec, "8080", "5353/udp")
		kit.Eventually(t, kit.Deadline, "a webhook that knows the new datapath", func() error {
			dry := p.DeepCopy()
			if err := n.TryCreate(dry, client.DryRunAll); err != nil {
				return err
			}
			if args := dry.Spec.InitContainers[0].Args; !slices.Contains(args, "--datapath="+string(kind)) {
				return errorf("%v", args)
			}
			return nil
		})
		n.Create(p)
	}
	n.WaitReady("on-netstack", "on-tun")
	for from, to := range map[string]string{"on-netstack": "on-tun", "on-tun": "on-netstack"} {
		if h := n.Ask(from, "http://"+to); h.Host != to {
			t.Errorf("%s asked %s and %s answered", from, to, h.Host)
		}
		n.App(from, "download", "http://"+to+"/download?bytes=20000000")
		n.App(from, "udp-ping", "-duration", "2s", "-interval", "50ms", to+":53")
		if m := n.Member(from); strings.ToLower("on-"+string(m.Status.Datapath)) != from {
			t.Errorf("%s has the datapath %s", from, m.Status.Datapath)
		}
	}
}

// Auto takes the best that the namespace's level and the node allow, and says which and why wherever one looks.
func TestDatapathAuto(t *testing.T) {
	t.Parallel()
	t.Run("restricted", func(t *testing.T) {
		n := cluster.Namespace(t)
		n.Tunnel("main")
		heard := &warnings{}
		as, err := cluster.As(func(cfg *rest.Config) { cfg.WarningHandlerWithContext = heard })
		if err != nil {
			t.Fatal(err)
		}
		p := kit.Pod("member")
		p.Namespace = n.Name
		if err := as.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		why := fmt.Sprintf("Auto: Netstack; namespace %s enforces Pod Security level restricted, which forbids NET_ADMIN", n.Name)
		if !heard.contain(why) {
			t.Errorf("warnings %q, want one with %q", heard.texts, why)
		}
		pod := n.WaitReady("member")[0]
		if m := n.Member("member"); m.Status.Datapath != v1alpha1.DatapathNetstack || m.Status.DatapathReason != why {
			t.Errorf("member status %+v, want %q", m.Status, why)
		}
		if note := eventOf(n, "member", "DatapathChosen"); !strings.Contains(note, why) {
			t.Errorf("event %q", note)
		}
		if metrics, err := cluster.Fetch(t.Context(), n.Name, "member", 51821, "metrics"); err != nil || !strings.Contains(metrics, `datapath="Netstack",why="`+why) {
			t.Errorf("no metric says why (%v)", err)
		}
		kit.NeedNodes(t)
		if s := lookAtSidecar(t, &pod); s.effective != 0 || s.bounds != 0 || strings.Contains(s.interfaces, "wg0:") {
			t.Errorf("the sidecar: %+v, want no capability and no interface", s)
		}
	})
	t.Run("privileged", func(t *testing.T) {
		cluster.NeedTUN(t)
		n := cluster.Namespace(t, kit.PodSecurity("privileged"))
		n.Tunnel("main")
		n.Create(kit.Pod("member"))
		pod := n.WaitReady("member")[0]
		want, why := v1alpha1.DatapathTUN, "Auto: TUN; no Kernel: "
		if kit.KernelWireGuard(t, pod.Spec.NodeName) {
			want, why = v1alpha1.DatapathKernel, "Auto: Kernel works here"
		}
		if m := n.Member("member"); m.Status.Datapath != want || !strings.HasPrefix(m.Status.DatapathReason, why) {
			t.Errorf("member status %+v, want %s, %q", m.Status, want, why)
		}
		if s := lookAtSidecar(t, &pod); s.effective != netAdmin || !strings.Contains(s.interfaces, "wg0:") {
			t.Errorf("the sidecar: %+v", s)
		}
		if log, err := n.Logs(t.Context(), "member", corev1.PodLogOptions{Container: kit.Sidecar}); err != nil || !strings.Contains(log, why) {
			t.Errorf("the log does not say why: %v\n%s", err, log)
		}
	})
}

// Netstack asks for nothing, wherever it may be had, and has nothing.
func TestDatapathNetstackAsksForNothing(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", datapath(v1alpha1.DatapathNetstack))
	n.Create(kit.Pod("member"))
	p := n.WaitReady("member")[0]
	sc := p.Spec.InitContainers[0].SecurityContext
	if len(sc.Capabilities.Add) > 0 || p.Spec.HostUsers != nil {
		t.Errorf("capabilities %v, hostUsers %v", sc.Capabilities, p.Spec.HostUsers)
	}
	if s := lookAtSidecar(t, &p); s.effective != 0 || s.bounds != 0 || s.uid != 65532 || strings.Contains(s.interfaces, "wg0:") {
		t.Errorf("the sidecar: %+v", s)
	}
}

// A datapath that was asked for by name and that the namespace's level forbids is refused with what to change; the tunnel itself is
// accepted, as the level may change.
func TestDatapathForbidden(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"restricted", "baseline"} {
		n := cluster.Namespace(t, kit.PodSecurity(level))
		for _, kind := range []v1alpha1.DatapathChoice{v1alpha1.DatapathKernel, v1alpha1.DatapathTUN} {
			name := strings.ToLower(string(kind))
			n.Tunnel(name, datapath(kind)) // waits until it is accepted
			p := kit.Pod("refused")
			p.Annotations = map[string]string{v1alpha1.AnnotationTunnel: name}
			err := n.TryCreate(p)
			if err == nil {
				t.Fatalf("%s in a %s namespace was admitted", kind, level)
			}
			for _, want := range []string{"DatapathForbidden", "spec.datapath: " + string(kind), "NET_ADMIN", "level " + level,
				"pod-security.kubernetes.io/enforce=privileged", "Auto or Netstack"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the answer does not say %q: %v", want, err)
				}
			}
		}
	}
}

// A datapath that was asked for by name and that the node lacks is not replaced: the pod does not start, its application sends
// nothing, and the member, the tunnel, an Event, the log and the container's state say why.
func TestDatapathKernelFailsClearly(t *testing.T) { // alone: it captures what the node sends
	kit.NeedNodes(t)
	if kit.KernelWireGuard(t, "node1") {
		t.Skip("this kernel has WireGuard. NOT TESTED: a datapath that the node lacks")
	}
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", kit.Exposing("web"), datapath(v1alpha1.DatapathKernel))
	marker := "kernel-plaintext-" + n.Name
	outside := cluster.Namespace(t, kit.NotOptedIn()) // the Service is there, and would answer in plaintext
	outside.Create(kit.Service("web", "80:8080"), webDeployment(1))
	ip := outside.WaitRollout("web")[0].Status.PodIP
	c := kit.StartCapture(t, "node1", t.TempDir())
	control := "control-" + n.Name
	outside.Create(kit.Pod("outsider"))
	outside.WaitReady("outsider")
	outside.App("outsider", "get", "http://"+ip+":8080/"+control)
	n.Create(kit.Pod("member", "get", "-n", "1000", "-interval", "50ms", "http://"+ip+":8080/"+marker))
	const why = "datapath Kernel was asked for and cannot be had: this kernel has no WireGuard"
	m := &v1alpha1.TunnelMember{}
	kit.Eventually(t, kit.Deadline, "the member's status", func() error {
		if err := n.Get(t.Context(), client.ObjectKey{Namespace: n.Name, Name: "member"}, m); err != nil {
			return err
		}
		r := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady)
		if r == nil || r.Reason != "DatapathUnavailable" || !strings.HasPrefix(r.Message, why) || m.Status.PublicKey != "" {
			return errorf("status %+v", m.Status)
		}
		return nil
	})
	kit.Eventually(t, kit.Deadline, "the tunnel's status", func() error {
		var tunnel v1alpha1.TenantTunnel
		n.Read("main", &tunnel)
		if r := meta.FindStatusCondition(tunnel.Status.Conditions, v1alpha1.ConditionReady); r == nil || r.Reason != "DatapathUnavailable" ||
			!strings.HasPrefix(r.Message, why) || !meta.IsStatusConditionTrue(tunnel.Status.Conditions, v1alpha1.ConditionAccepted) {
			return errorf("conditions %+v", tunnel.Status.Conditions)
		}
		return nil
	})
	if note := eventOf(n, "member", "DatapathUnavailable"); !strings.HasPrefix(note, why) {
		t.Errorf("event %q", note)
	}
	kit.Eventually(t, kit.Deadline, "the container's last words", func() error {
		p := &corev1.Pod{}
		n.Read("member", p)
		s := kit.SidecarStatus(p)
		if s == nil {
			return errorf("no status of the sidecar")
		}
		ended := s.State.Terminated
		if ended == nil {
			ended = s.LastTerminationState.Terminated
		}
		if ended == nil || ended.ExitCode == 0 || !strings.Contains(ended.Message, why) {
			return errorf("%s", kit.Describe(p))
		}
		if a := p.Status.ContainerStatuses; len(a) > 0 && (a[0].State.Running != nil || a[0].State.Terminated != nil) {
			return errorf("the application runs: %s", kit.Describe(p))
		}
		return nil
	})
	if count := c.Stop(marker); count.Marker > 0 {
		t.Errorf("captured %+v", count)
	}
	if count := c.Count(control); count.Marker == 0 {
		t.Errorf("captured %+v: what the pod outside sent in plaintext is not there, so the test shows nothing", count)
	}
}

// A pod on kernel WireGuard, where the kernel has it. The datapath's own suite runs on one in a guest (sidecar/kernel); a cluster
// does not fit into an emulated guest.
func TestDatapathKernel(t *testing.T) {
	t.Parallel()
	kit.NeedNodes(t)
	if !kit.KernelWireGuard(t, "node1") {
		t.Skip("this kernel has no WireGuard. NOT TESTED: injected pods with the datapath Kernel")
	}
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", kit.Exposing("web"), datapath(v1alpha1.DatapathKernel))
	web(n, 1)
	n.Create(kit.Pod("client"))
	p := n.WaitReady("client")[0]
	n.Ask("client", "http://web")
	if m := n.Member("client"); m.Status.Datapath != v1alpha1.DatapathKernel {
		t.Errorf("member status %+v", m.Status)
	}
	if s := lookAtSidecar(t, &p); s.effective != netAdmin || !strings.Contains(s.interfaces, "wg0:") {
		t.Errorf("the sidecar: %+v", s)
	}
}
