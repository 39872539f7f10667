package e2e

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

func annotate(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, value) }
}

// eventuallyRefused waits until the webhook knows what was just made.
func eventuallyRefused(n *kit.Namespace, pod func() *corev1.Pod, want ...string) {
	n.T.Helper()
	_ = refusal(n, pod, want...)
}

// refusal does the same and returns the answer.
func refusal(n *kit.Namespace, pod func() *corev1.Pod, want ...string) (err error) {
	n.T.Helper()
	kit.Eventually(n.T, kit.Deadline, "refusal", func() error {
		p := pod()
		if err = n.TryCreate(p); err == nil {
			n.Remove(p, client.GracePeriodSeconds(0))
			return errorf("the pod is admitted")
		}
		if apierrors.IsAlreadyExists(err) {
			return err // what was admitted is not gone yet
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				return errorf("the answer does not say %q: %w", w, err)
			}
		}
		return nil
	})
	return err
}

// Every refusal says what to change.
func TestInjectRefusals(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Create(kit.Service("web", "80:8080"), kit.Service("api", "9090"))
	n.Tunnel("main", kit.Exposing("web", "api"), func(s *v1alpha1.TenantTunnelSpec) {
		s.Proxies = []v1alpha1.Proxy{{Protocol: v1alpha1.SOCKS5, Port: 1080}}
	})
	container := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
	}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"hostNetwork": {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, []string{"spec.hostNetwork", "opt out"}},
		"container of our name": {container(func(c *corev1.Container) { c.Name = kit.Sidecar }),
			[]string{"spec.containers[0].name", kit.Sidecar, "another name"}},
		"sidecar of our name": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{kit.Container(kit.Sidecar)}
		}, []string{"spec.initContainers[0]", kit.Sidecar}},
		"volume of our name": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "tenantwire-mine"}}
		}, []string{"spec.volumes[0].name", "another name"}},
		"mount of our path": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "mine"}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: "/var/run/tenantwire"}}
		}, []string{"spec.containers[0].volumeMounts[0].mountPath", "another path"}},
		"port of ours":      {container(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: injector.HealthPort}} }), []string{"spec.containers[0].ports[0]", "another port"}},
		"port of a Service": {func(p *corev1.Pod) { kit.Declare(&p.Spec, "9090") }, []string{"9090/TCP", "api", "targetPort", v1alpha1.AnnotationCarry}},
		"port of a proxy":   {func(p *corev1.Pod) { kit.Declare(&p.Spec, "1080") }, []string{"1080/TCP", "spec.proxies", "another port"}},
		"alias of a Service": {func(p *corev1.Pod) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"web"}}}
		}, []string{"spec.hostAliases[0].hostnames[0]", "web"}},
		"sysctl": {func(p *corev1.Pod) {
			p.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "1024"}}
		}, []string{"spec.securityContext.sysctls[0]", "use 0"}},
		"unknown annotation":  {annotate("tenantwire.dev/exposed", "8080"), []string{"tenantwire.dev/exposed", v1alpha1.AnnotationExpose}},
		"inject: no":          {annotate(v1alpha1.AnnotationInject, "no"), []string{v1alpha1.AnnotationInject, `"no"`, `"false"`}},
		"expose: nonsense":    {annotate(v1alpha1.AnnotationExpose, "8080, http"), []string{v1alpha1.AnnotationExpose, "http"}},
		"expose: 0":           {annotate(v1alpha1.AnnotationExpose, "0"), []string{v1alpha1.AnnotationExpose, "0", "65535"}},
		"carry: unknown":      {annotate(v1alpha1.AnnotationCarry, "web, db"), []string{v1alpha1.AnnotationCarry, `"db"`, "api, web"}},
		"tunnel: unknown":     {annotate(v1alpha1.AnnotationTunnel, "other"), []string{v1alpha1.AnnotationTunnel, `"other"`, "main"}},
		"label of others":     {func(p *corev1.Pod) { p.Labels[v1alpha1.LabelTunnel] = "other" }, []string{v1alpha1.LabelTunnel, "main", "remove the label"}},
		"static pod's mirror": {annotate(corev1.MirrorPodAnnotationKey, "x"), nil}, // the API server or we: it must not get in
		"windows":             {func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} }, []string{"spec.nodeSelector", "windows", "opt out"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := refusal(n, func() *corev1.Pod {
				p := kit.Pod("refused")
				c.change(p)
				return p
			}, c.want...)
			if len(c.want) > 0 && !apierrors.IsForbidden(err) {
				t.Errorf("%v, want Forbidden: %v", apierrors.ReasonForError(err), err)
			}
		})
	}
}

// Refusals that depend on the tunnels there are.
func TestInjectRefusesWithoutAClearTunnel(t *testing.T) {
	t.Parallel()
	pod := func() *corev1.Pod { return kit.Pod("refused") }
	t.Run("no tunnel", func(t *testing.T) {
		n := cluster.Namespace(t)
		eventuallyRefused(n, pod, "no TenantTunnel", "create one", v1alpha1.LabelInject)
	})
	t.Run("several", func(t *testing.T) {
		n := cluster.Namespace(t)
		n.Tunnel("blue")
		n.Tunnel("green")
		eventuallyRefused(n, pod, "several tunnels", v1alpha1.AnnotationTunnel, "blue, green")
	})
	t.Run("required", func(t *testing.T) {
		n := cluster.Namespace(t)
		n.Tunnel("main", func(s *v1alpha1.TenantTunnelSpec) { s.Members.Enforcement = v1alpha1.EnforcementRequired })
		eventuallyRefused(n, func() *corev1.Pod {
			p := pod()
			annotate(v1alpha1.AnnotationInject, "false")(p)
			return p
		}, v1alpha1.AnnotationInject, "main", "Required")
	})
	t.Run("datapath", func(t *testing.T) {
		n := cluster.Namespace(t)
		n.Create(&v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Name: "main"}, Spec: v1alpha1.TenantTunnelSpec{Datapath: v1alpha1.DatapathTUN}})
		eventuallyRefused(n, pod, "spec.datapath", "TUN", "Netstack")
	})
}

// A dry run shows the injected pod and leaves nothing behind.
func TestInjectDryRun(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	p := kit.Pod("dry")
	kit.Eventually(t, kit.Deadline, "injection", func() error {
		p = kit.Pod("dry")
		if err := n.TryCreate(p, client.DryRunAll); err != nil {
			return err
		}
		if !kit.IsInjected(p) {
			return errorf("the pod is not injected")
		}
		return nil
	})
	bad := kit.Pod("bad")
	annotate(v1alpha1.AnnotationInject, "no")(bad)
	if err := n.TryCreate(bad, client.DryRunAll); err == nil {
		t.Error("a dry run admits what is refused otherwise")
	}
	// What is made for real after it shows that the controllers have had their time.
	n.Create(kit.Pod("real"))
	n.Member("real")
	var members v1alpha1.TunnelMemberList
	if err := n.List(t.Context(), &members, client.InNamespace(n.Name)); err != nil {
		t.Fatal(err)
	}
	if len(members.Items) != 1 {
		t.Errorf("%d members, want the real pod's alone", len(members.Items))
	}
	var events corev1.EventList
	if err := n.List(t.Context(), &events, client.InNamespace(n.Name)); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.InvolvedObject.Name == "dry" || e.InvolvedObject.Name == "bad" }) {
		t.Error("a dry run left an event")
	}
}

// A pod that was injected can be created again as it was read: backups, kubectl debug --copy-to and the like do that.
func TestInjectOfAnInjectedPod(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	n.Create(kit.Pod("original"))
	original := n.WaitReady("original")[0]
	again := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "again", Labels: original.Labels, Annotations: original.Annotations}, Spec: *original.Spec.DeepCopy()}
	again.Spec.NodeName = ""
	n.Create(again)
	got := n.WaitReady("again")[0]
	n.Ask("again", "http://web")
	if len(got.Spec.InitContainers) != len(original.Spec.InitContainers) || len(got.Spec.Volumes) != len(original.Spec.Volumes) ||
		len(got.Spec.HostAliases) != len(original.Spec.HostAliases) {
		t.Errorf("%d init containers, %d volumes, %d aliases; want as many as the original has",
			len(got.Spec.InitContainers), len(got.Spec.Volumes), len(got.Spec.HostAliases))
	}
	if n.Member("again").Status.PublicKey == n.Member("original").Status.PublicKey {
		t.Error("two pods have one key")
	}
}

// warnings collects what the API server tells a client besides its answer.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

func (w *warnings) contain(s string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.texts, func(t string) bool { return strings.Contains(t, s) })
}

// Who opts out is left alone, and told what that means.
func TestOptOutOfAPod(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	heard := &warnings{}
	c, err := cluster.As(func(cfg *rest.Config) { cfg.WarningHandlerWithContext = heard })
	if err != nil {
		t.Fatal(err)
	}
	p := kit.Pod("outsider")
	p.Namespace = n.Name
	annotate(v1alpha1.AnnotationInject, "false")(p)
	if err := c.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if !heard.contain("not encrypted") {
		t.Errorf("warnings %q say nothing of encryption", heard.texts)
	}
	got := n.WaitReady("outsider")[0]
	if kit.IsInjected(&got) || len(got.Spec.HostAliases) > 0 || len(got.Spec.Volumes) != 1 || got.Labels[v1alpha1.LabelTunnel] != "" {
		t.Errorf("the pod was changed: %+v", got.Spec)
	}
	if err := n.Get(t.Context(), client.ObjectKey{Namespace: n.Name, Name: "outsider"}, &v1alpha1.TunnelMember{}); !apierrors.IsNotFound(err) {
		t.Errorf("a member of a pod outside: %v", err)
	}
	// It goes where the name leads without us.
	if h := answered(n, "outsider", "http://web"); strings.HasPrefix(h.From, "127.") {
		t.Errorf("answered from %s", h.From)
	}
}

// Without the label, what is created is not touched, and what runs keeps its tunnel. Putting the label back opts in again.
func TestOptOutOfANamespace(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	tr := n.StartRequests("client", steady, "http://web")
	n.Label(map[string]string{v1alpha1.LabelInject: ""})
	kit.Eventually(t, kit.Deadline, "the API server's notice of the label", func() error {
		p := kit.Pod("asked")
		if err := n.TryCreate(p, client.DryRunAll); err != nil {
			return err
		}
		if kit.IsInjected(p) {
			return errorf("still injected")
		}
		return nil
	})
	n.Create(kit.Pod("plain"))
	if p := n.WaitReady("plain")[0]; kit.IsInjected(&p) {
		t.Error("a pod of a namespace that is not opted in was injected")
	}
	tr.WaitMore(20)
	tr.MustBeWhole()
	n.Label(map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled})
	kit.Eventually(t, kit.Deadline, "injection again", func() error {
		p := kit.Pod("asked")
		if err := n.TryCreate(p, client.DryRunAll); err != nil {
			return err
		}
		if !kit.IsInjected(p) {
			return errorf("not injected")
		}
		return nil
	})
}

// A pod carries the names it asks for, and no others.
func TestInjectCarriesOnlyWhatIsListed(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web", "api"))
	web(n, 1)
	api := kit.Deployment("api", 1, "serve", "http=:8080")
	kit.Declare(&api.Spec.Template.Spec, "8080")
	annotate := func(name, carry string) *corev1.Pod {
		p := kit.Pod(name)
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationCarry, carry)
		return p
	}
	n.Create(kit.Service("api", "80:8080"), api, annotate("some", "web"), annotate("none", ""))
	n.WaitRollout("api")
	n.WaitReady("some", "none")
	for _, c := range []struct {
		pod, name string
		carried   bool
	}{{"some", "web", true}, {"some", "api", false}, {"none", "web", false}} {
		h := answered(n, c.pod, "http://"+c.name)
		if got := strings.HasPrefix(h.From, "127.0.0.1:"); got != c.carried {
			t.Errorf("%s asked %s, which the server saw from %s; want carried %t", c.pod, c.name, h.From, c.carried)
		}
	}
}

// Two tunnels of one namespace are two networks: each pod is in one, and knows nothing of the other.
func TestTunnelsSideBySide(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	team := func(name string) func(*v1alpha1.TenantTunnelSpec) {
		return func(s *v1alpha1.TenantTunnelSpec) {
			s.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": name}}
			s.Proxies = []v1alpha1.Proxy{{Protocol: v1alpha1.SOCKS5, Port: 1080}}
			s.Addressing.IPv4Pool = "10.77.0.0/24" // the same for both
		}
	}
	n.Tunnel("blue", kit.Exposing("web"), team("blue"))
	n.Tunnel("green", team("green"))
	n.Tunnel("any", func(s *v1alpha1.TenantTunnelSpec) {
		s.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"choose": "yes"}}
	})
	server := webDeployment(1)
	server.Spec.Template.Labels["team"] = "blue"
	inTeam := func(name, team string) *corev1.Pod {
		p := kit.Pod(name)
		p.Labels["team"] = team
		return p
	}
	both := inTeam("both", "green")
	both.Labels["choose"] = "yes"
	annotate(v1alpha1.AnnotationTunnel, "any")(both)
	n.Create(kit.Service("web", "80:8080"), server, inTeam("blue", "blue"), inTeam("green", "green"), kit.Pod("alone"), both)
	target := n.WaitRollout("web")[0]
	n.WaitReady("blue", "green", "alone", "both")
	for pod, tunnel := range map[string]string{"blue": "blue", "green": "green", "both": "any", target.Name: "blue"} {
		if m := n.Member(pod); m.Spec.Tunnel != tunnel {
			t.Errorf("%s is in %s, want %s", pod, m.Spec.Tunnel, tunnel)
		}
	}
	if p := n.WaitReady("alone")[0]; kit.IsInjected(&p) {
		t.Error("a pod that no tunnel selects was injected")
	}
	at := n.Member(target.Name).Spec.Addresses
	for _, a := range at {
		url := "http://" + bracketed(a) + ":8080"
		n.App("blue", "get", "-proxy", "socks5://127.0.0.1:1080", url)
		if r := n.Exec("green", kit.AppContainer, "get", "-proxy", "socks5://127.0.0.1:1080", url); r.Code == 0 {
			t.Errorf("a member of green reached %s of blue: %s", a, r)
		}
	}
}

func bracketed(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

// Tenants of different namespaces are not touched by each other's labels, tunnels or names.
func TestInjectLeavesOtherNamespacesAlone(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t, kit.NotOptedIn())
	n.Tunnel("main", kit.Exposing("web"))
	p := kit.Pod("plain")
	p.Spec.AutomountServiceAccountToken = ptr.To(false)
	n.Create(p)
	if got := n.WaitReady("plain")[0]; kit.IsInjected(&got) || len(got.Spec.Volumes) > 0 {
		t.Errorf("the pod was changed: %+v", got.Spec)
	}
}
