package injector

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func testGateway() (*Config, *v1alpha1.TenantTunnel) {
	t := testInput().Tunnels[0]
	t.UID = "uid-main"
	t.Spec.Gateway = &v1alpha1.Gateway{Replicas: 2, Service: v1alpha1.GatewayService{Type: v1alpha1.GatewayLoadBalancer, Port: 443, NodePort: ptr.To[int32](31820),
		Annotations: map[string]string{"lb.example.com/internal": "true"}}}
	return testConfig(), &t
}

// TestGatewayObjects compares all of a gateway with testdata/gateway.yaml.
func TestGatewayObjects(t *testing.T) {
	c, tunnel := testGateway()
	compareObjects(t, "testdata/gateway.yaml", c.Gateway(tunnel, testSite(Restricted)))
}

// compareObjects compares objects with a file of them.
func compareObjects(t *testing.T, path string, objects []runtime.Object) {
	t.Helper()
	var all strings.Builder
	for _, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString("---\n" + string(b))
	}
	if *update {
		if err := os.WriteFile(path, []byte(all.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), all.String()); d != "" {
		t.Errorf("run with -update and look at the difference:\n%s", d)
	}
}

// TestDisruptionBudget: pods that stand by are not evicted while another takes over, and are where nobody does.
func TestDisruptionBudget(t *testing.T) {
	for name, tt := range map[string]struct {
		active    string
		takesOver bool
		want      policyv1.UnhealthyPodEvictionPolicyType
	}{
		"one is active":    {"gateway-x", false, policyv1.IfHealthyBudget},
		"one is about to":  {"", true, policyv1.IfHealthyBudget},
		"nobody ever will": {"", false, policyv1.AlwaysAllow},
	} {
		c, tunnel := testGateway()
		tunnel.Status.Gateway = &v1alpha1.GatewayStatus{Active: tt.active}
		at := testSite(Restricted)
		at.TakesOver = tt.takesOver
		found := false
		for _, o := range c.Gateway(tunnel, at) {
			if b, ok := o.(*policyv1.PodDisruptionBudget); ok {
				found = *b.Spec.UnhealthyPodEvictionPolicy == tt.want && b.Spec.MaxUnavailable.String() == "100%"
			}
		}
		if !found {
			t.Errorf("%s: no budget that says %s", name, tt.want)
		}
	}
}

func TestGatewayResources(t *testing.T) {
	c, tunnel := testGateway()
	memory := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")}
	tunnel.Spec.Gateway.Resources = &v1alpha1.GatewayResources{Limits: memory}
	objects := c.Gateway(tunnel, testSite(Restricted))
	got := objects[len(objects)-1].(*appsv1.Deployment).Spec.Template.Spec.Containers[0].Resources
	if d := cmp.Diff(corev1.ResourceRequirements{Limits: memory}, got); d != "" {
		t.Error(d)
	}
}

func gatewayDeployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	c, tunnel := testGateway()
	objects := c.Gateway(tunnel, testSite(Restricted))
	d, ok := objects[len(objects)-1].(*appsv1.Deployment)
	if !ok {
		t.Fatalf("the last is %T", objects[len(objects)-1])
	}
	return d
}

// A gateway's pods are admitted where Pod Security is restricted, and their key is nowhere in what is applied.
func TestGatewayIsRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	template := gatewayDeployment(t).Spec.Template
	if !admits(t, evaluator, api.LevelRestricted, &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}, true) {
		t.Error("not admitted")
	}
}

// Invariant 2: a gateway may do nothing but read and update its own Lease.
func TestGatewayRights(t *testing.T) {
	c, tunnel := testGateway()
	roles := 0
	for _, o := range c.Gateway(tunnel, testSite(Restricted)) {
		r, ok := o.(*rbacv1.Role)
		if !ok {
			continue
		}
		roles++
		want := []rbacv1.PolicyRule{{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{"tenantwire-gateway-main"}, Verbs: []string{"get", "update"}}}
		if !reflect.DeepEqual(r.Rules, want) {
			t.Errorf("rules %+v", r.Rules)
		}
	}
	if roles != 1 {
		t.Errorf("%d roles", roles)
	}
}

func TestGatewayPodPasses(t *testing.T) {
	_, tunnel := testGateway()
	in := func(change func(*corev1.Pod)) Input {
		in := testInput()
		in.Tunnels[0] = *tunnel
		in.Tunnels[0].Spec.Members.Enforcement = v1alpha1.EnforcementRequired
		template := gatewayDeployment(t).Spec.Template.DeepCopy()
		in.Pod = &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		// As the API server's own plugins leave it.
		in.Pod.Spec.Containers[0].VolumeMounts = append(in.Pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "kube-api-access-x", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"})
		in.Pod.Spec.Volumes = append(in.Pod.Spec.Volumes, corev1.Volume{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}})
		in.Pod.Spec.Priority = ptr.To[int32](0)
		in.Pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("50m")
		if change != nil {
			change(in.Pod)
		}
		return finish(t, in)
	}
	if d := Decide(in(nil)); d.Outcome != Skip || d.Reason != GatewayPod || d.Tunnel != "main" {
		t.Errorf("%+v", d)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"another image":   func(p *corev1.Pod) { p.Spec.Containers[0].Image = "evil" },
		"a command":       func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/bin/sh"} },
		"other arguments": func(p *corev1.Pod) { p.Spec.Containers[0].Args[0] = "--coordinator=https://evil" },
		"one more argument": func(p *corev1.Pod) {
			p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, "--log-level=debug")
		},
		"a second container": func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "app", Image: "app"})
		},
		"an init container": func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "app", Image: "app"}} },
		"a hook": func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		},
		"the node's network": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"a file over the program": func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "x", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "x", MountPath: "/gateway", SubPath: "evil"})
		},
		"a volume that claims to be the token's": func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "kube-api-access-y", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		},
		"the token's volume elsewhere": func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "kube-api-access-x", MountPath: "/gateway", SubPath: "x"})
		},
		"a probe that runs something": func(p *corev1.Pod) {
			p.Spec.Containers[0].StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		},
		"a variable": func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: "GODEBUG", Value: "x"})
		},
		"privileges":      func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.Privileged = ptr.To(true) },
		"another account": func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" },
		"another tunnel":  func(p *corev1.Pod) { p.Labels[v1alpha1.LabelTunnel] = "other" },
		"no tunnel":       func(p *corev1.Pod) { delete(p.Labels, v1alpha1.LabelTunnel) },
		"another role":    func(p *corev1.Pod) { p.Labels[v1alpha1.LabelRole] = "member" },
	} {
		if d := Decide(in(change)); d.Outcome != Deny || d.Reason != LabelConflict || !strings.Contains(d.Message, v1alpha1.LabelRole) {
			t.Errorf("with %s: %s %s: %s", name, d.Outcome, d.Reason, d.Message)
		}
	}
	without := in(nil)
	without.Tunnels[0].Spec.Gateway = nil
	if d := Decide(without); d.Outcome != Deny || d.Reason != LabelConflict {
		t.Errorf("of a tunnel without a gateway: %s %s", d.Outcome, d.Reason)
	}
}
