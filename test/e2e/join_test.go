package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// web is a Deployment "web" behind a Service "web" on port 80, which the tunnel carries; it returns when all of it is ready.
func web(n *kit.Namespace, replicas int32) []corev1.Pod {
	n.T.Helper()
	n.Create(kit.Service("web", "80:8080"), webDeployment(replicas))
	return n.WaitRollout("web")
}

func webDeployment(replicas int32) *appsv1.Deployment {
	d := kit.Deployment("web", replicas, "serve", "http=:8080")
	kit.Declare(&d.Spec.Template.Spec, "8080")
	return d
}

// withIPv4 gives members IPv4 addresses too.
func withIPv4(pool string) func(*v1alpha1.TenantTunnelSpec) {
	return func(s *v1alpha1.TenantTunnelSpec) { s.Addressing.IPv4Pool = pool }
}

// Whatever made the pod, it joins: the application asks for the Service by name and is answered through the tunnel.
func TestJoinFromEveryKindOfWorkload(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	tunnel := n.Tunnel("main", kit.Exposing("web"), withIPv4("10.77.0.0/24"))
	n.Create(kit.Service("web", "80:8080"), webDeployment(1))
	const ask = "http://web"
	once := func(app string) corev1.PodTemplateSpec {
		s := kit.Template(app, "get", "-n", "40", "-interval", "100ms", ask)
		s.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		return s
	}
	n.WaitRollout("web") // jobs retry nothing
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: batchv1.JobSpec{Template: once("job"), BackoffLimit: ptr.To[int32](0)}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	labels := func(app string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	}
	n.Create(
		job,
		&batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "cron"}, Spec: batchv1.CronJobSpec{Schedule: "* * * * *",
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: once("cron")}}}},
		kit.Deployment("deployment", 2),
		&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "set"}, Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To[int32](2), Selector: labels("set"), Template: kit.Template("set"), PodManagementPolicy: appsv1.ParallelPodManagement}},
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "daemon"}, Spec: appsv1.DaemonSetSpec{
			Selector: labels("daemon"), Template: kit.Template("daemon")}},
		kit.Pod("bare"),
	)
	for app, want := range map[string]int{"deployment": 2, "set": 2, "daemon": 1, "bare": 1} {
		t.Run(app, func(t *testing.T) {
			kit.Eventually(t, kit.Deadline, "pods of "+app, func() error { return readyPods(n.Pods(app), want) })
			for _, p := range n.Pods(app) {
				checkMember(t, n.Member(p.Name), tunnel)
				for _, name := range []string{"web", "web." + n.Name, "web." + n.Name + ".svc", "web." + n.Name + ".svc.cluster.local"} {
					if h := n.Ask(p.Name, "http://"+name); !strings.HasPrefix(h.From, "127.0.0.1:") {
						t.Errorf("%s asked %s: the request reached the server from %s, not from its own sidecar", p.Name, name, h.From)
					}
				}
			}
		})
	}
	t.Run("job", func(t *testing.T) {
		kit.Eventually(t, kit.Deadline, "job", func() error { return jobDone(n, job) })
	})
	t.Run("cron", func(t *testing.T) {
		kit.Eventually(t, 2*kit.Deadline, "a job of the CronJob", func() error {
			var jobs batchv1.JobList
			if err := n.List(t.Context(), &jobs, client.InNamespace(n.Name)); err != nil {
				return err
			}
			for i := range jobs.Items {
				if metav1.GetControllerOf(&jobs.Items[i]) != nil {
					return jobDone(n, &jobs.Items[i])
				}
			}
			return errors.New("none yet")
		})
	})
}

func readyPods(pods []corev1.Pod, want int) error {
	if len(pods) != want {
		return fmt.Errorf("%d pods, want %d", len(pods), want)
	}
	for i := range pods {
		if !kit.IsReady(&pods[i]) {
			return fmt.Errorf("%s: %s", pods[i].Name, kit.Describe(&pods[i]))
		}
	}
	return nil
}

func jobDone(n *kit.Namespace, job *batchv1.Job) error {
	if err := n.Get(n.T.Context(), client.ObjectKeyFromObject(job), job); err != nil {
		return err
	}
	if job.Status.Failed > 0 {
		n.T.Fatalf("job %s failed: %+v", job.Name, job.Status)
	}
	if job.Status.Succeeded == 0 {
		return fmt.Errorf("status %+v", job.Status)
	}
	return nil
}

// checkMember holds a ready member to its tunnel.
func checkMember(t *testing.T, m *v1alpha1.TunnelMember, tunnel *v1alpha1.TenantTunnel) {
	t.Helper()
	if m.Spec.Tunnel != tunnel.Name || m.Status.Datapath != v1alpha1.DatapathNetstack || m.Status.PublicKey == "" || m.Status.DatapathReason == "" {
		t.Errorf("member %s: %+v %+v", m.Name, m.Spec, m.Status)
	}
	a := tunnel.Status.Addressing
	for _, pool := range []string{a.IPv6Prefix, a.IPv4Pool} {
		if pool == "" {
			continue
		}
		p := netip.MustParsePrefix(pool)
		if !slices.ContainsFunc(m.Spec.Addresses, func(s string) bool { return p.Contains(netip.MustParseAddr(s)) }) {
			t.Errorf("member %s: none of its addresses %v is of %s", m.Name, m.Spec.Addresses, pool)
		}
	}
	if o := m.OwnerReferences; len(o) != 1 || o[0].Kind != "Pod" || string(o[0].UID) != m.Spec.PodUID {
		t.Errorf("member %s: its owner is %+v, not its pod", m.Name, o)
	}
}

// The tunnel's status counts what joined, and Ready follows.
func TestJoinShowsInTheTunnelStatus(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 2)
	kit.Eventually(t, kit.Deadline, "status", func() error {
		var tt v1alpha1.TenantTunnel
		n.Read("main", &tt)
		s := tt.Status
		if s.Members == nil || s.Members.Total != 2 || s.Members.Ready != 2 || !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionReady) ||
			len(s.Datapaths) != 1 || s.Datapaths[0] != (v1alpha1.DatapathCount{Datapath: v1alpha1.DatapathNetstack, Members: 2}) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// What init containers do already goes through the tunnel, and so does what native sidecars do.
func TestJoinBeforeInitContainers(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	p := kit.Pod("early")
	p.Spec.InitContainers = []corev1.Container{
		kit.Container("migrate", "get", "http://web/migrate"),
		kit.Container("companion", "get", "-n", "1000000", "-interval", "1s", "http://web/companion"),
	}
	p.Spec.InitContainers[1].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	n.Create(p)
	got := n.WaitReady("early")[0]
	if got.Spec.InitContainers[0].Name != kit.Sidecar {
		t.Errorf("the sidecar is not the first init container")
	}
	for _, c := range got.Status.InitContainerStatuses {
		if c.RestartCount > 0 {
			t.Errorf("init container %s needed %d restarts", c.Name, c.RestartCount)
		}
	}
	text, err := n.Logs(t.Context(), "early", corev1.PodLogOptions{Container: "migrate"})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := kit.ParseHello(text); err != nil || !strings.HasPrefix(h.From, "127.0.0.1:") {
		t.Errorf("init container: %q, %v", text, err)
	}
}

// Nothing of the pod's own is lost or in the way.
func TestJoinWithThePodsOwnSettings(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	off := kit.Pod("without-token")
	off.Spec.AutomountServiceAccountToken = ptr.To(false)

	own := kit.Pod("own")
	own.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"legacy", "legacy.example"}}}
	own.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	own.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	own.Spec.SecurityContext.FSGroup = ptr.To[int64](2000)
	own.Spec.SecurityContext.SupplementalGroups = []int64{3000}
	own.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_local_port_range", Value: "20000 60000"}}

	users := kit.Pod("users", "serve", "http=127.0.0.1:9000")
	second := kit.Container("second")
	second.SecurityContext.RunAsUser = ptr.To[int64](1234)
	users.Spec.Containers = append(users.Spec.Containers, second)

	same := kit.Pod("same-user-as-sidecar")
	same.Spec.SecurityContext.RunAsUser = ptr.To[int64](65532)

	n.Create(off, own, users, same)
	for _, p := range n.WaitReady("without-token", "own", "users", "same-user-as-sidecar") {
		n.Ask(p.Name, "http://web")
	}
	if out := n.App("own", "lookup", "legacy"); !strings.Contains(out, "192.0.2.7") {
		t.Errorf("the pod's own hostAliases: %s", out)
	}
	if r := n.Exec("users", "second", "get", "http://web"); r.Code != 0 {
		t.Errorf("a container of another user: %s", r)
	}
	var p corev1.Pod
	n.Read("without-token", &p)
	for _, c := range p.Spec.Containers {
		if len(c.VolumeMounts) > 0 {
			t.Errorf("container %s has mounts it did not ask for: %v", c.Name, c.VolumeMounts)
		}
	}
	n.Read("own", &p)
	if got := p.Spec.SecurityContext.Sysctls; len(got) != 2 {
		t.Errorf("sysctls %v, want the pod's own and ours", got)
	}
}

// Outside restricted namespaces applications may be root, and the sidecar is no more than anywhere but for NET_ADMIN.
func TestJoinBesideRoot(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t, kit.PodSecurity("privileged"))
	n.Tunnel("main", kit.Exposing("web"))
	web(n, 1)
	p := kit.Pod("root")
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](0), FSGroup: ptr.To[int64](0)}
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	n.Create(p)
	got := n.WaitReady("root")[0]
	n.Ask("root", "http://web")
	sc := got.Spec.InitContainers[0].SecurityContext
	if sc == nil || sc.Privileged != nil && *sc.Privileged || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot ||
		!slices.Equal(sc.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) {
		t.Errorf("the sidecar's security context: %+v", sc)
	}
}

// A pod of a StatefulSet comes back under its name with another key, and everybody learns of it.
func TestJoinAgainUnderTheSameName(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("db"))
	template := kit.Template("db", "serve", "http=:8080")
	kit.Declare(&template.Spec, "8080")
	n.Create(kit.Service("db", "80:8080"), kit.Pod("client"), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}})
	n.WaitReady("db-0", "client")
	before := n.Member("db-0")
	n.EventuallyApp("client", "get", "http://db")
	for range 2 {
		old := &corev1.Pod{}
		n.Read("db-0", old)
		n.Remove(old.DeepCopy())
		n.WaitGone(old)
		n.WaitReady("db-0")
		n.EventuallyApp("client", "get", "http://db")
	}
	after := n.Member("db-0")
	if before.Spec.PodUID == after.Spec.PodUID || before.Status.PublicKey == after.Status.PublicKey {
		t.Errorf("another pod has the identity of the one before: %+v", after.Status)
	}
}

// A pool without room says so at the pod, and gives up addresses of pods that went.
func TestJoinWhenThePoolIsFull(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main", withIPv4("10.9.0.0/28")) // 14 addresses
	n.Create(kit.Deployment("many", 14))
	n.WaitRollout("many")
	n.Create(kit.Pod("late"))
	kit.Eventually(t, kit.Deadline, "an event that says why", func() error {
		var events corev1.EventList
		if err := n.List(t.Context(), &events, client.InNamespace(n.Name)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Name == "late" && e.Reason == "AddressPoolExhausted" {
				return nil
			}
		}
		return errors.New("none yet")
	})
	n.Scale("many", 13)
	n.WaitReady("late")
	seen := map[string]string{}
	var members v1alpha1.TunnelMemberList
	if err := n.List(t.Context(), &members, client.InNamespace(n.Name)); err != nil {
		t.Fatal(err)
	}
	for _, m := range members.Items {
		for _, a := range m.Spec.Addresses {
			if other, taken := seen[a]; taken {
				t.Errorf("%s is the address of both %s and %s", a, m.Name, other)
			}
			seen[a] = m.Name
		}
	}
}
