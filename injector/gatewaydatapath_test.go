package injector

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const testDevice = "devices.example/tun"

// testSite is the test's namespace at a level; empty: without the label.
func testSite(level PodSecurityLevel) Site {
	ns := testNamespace()
	if level == "" {
		delete(ns.Labels, enforceLabel)
	} else {
		ns.Labels[enforceLabel] = string(level)
	}
	return Site{Namespace: ns}
}

// deploymentOf is nil where there is none.
func deploymentOf(objects []runtime.Object) *appsv1.Deployment {
	if len(objects) == 0 {
		return nil
	}
	d, _ := objects[len(objects)-1].(*appsv1.Deployment)
	return d
}

// TestGatewayTUN compares the Deployment of a gateway on TUN, with all that is granted for it, with testdata/gateway-tun.yaml.
func TestGatewayTUN(t *testing.T) {
	c, tunnel := testGateway()
	tunnel.Spec.Gateway.Datapath = v1alpha1.DatapathTUN
	c.TUNResource = testDevice
	at := testSite(Privileged)
	at.UserNamespacesOn = true
	compareObjects(t, "testdata/gateway-tun.yaml", []runtime.Object{deploymentOf(c.Gateway(tunnel, at))})
}

// What a gateway is given is what its namespace allows, and nothing that was not asked for; where it cannot be had there is nothing.
func TestGatewayGrants(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		choice  v1alpha1.DatapathChoice
		level   PodSecurityLevel
		forAuto bool
		// wanted: what its program is told (empty: nothing, which is Netstack), and what it is given
		told             string
		netAdmin, device bool
		refused          string
	}{
		{choice: "", level: Restricted},
		{choice: "", level: Privileged, forAuto: true},
		{choice: v1alpha1.DatapathNetstack, level: Privileged, forAuto: true},
		{choice: v1alpha1.DatapathTUN, level: Privileged, told: "--datapath=TUN", netAdmin: true, device: true},
		{choice: v1alpha1.DatapathTUN, level: "", told: "--datapath=TUN", netAdmin: true, device: true},
		{choice: v1alpha1.DatapathTUN, level: Baseline, refused: "namespace shop enforces Pod Security level baseline, which forbids it"},
		{choice: v1alpha1.DatapathTUN, level: Restricted, refused: "spec.gateway.datapath: TUN, which needs NET_ADMIN"},
		{choice: v1alpha1.DatapathAuto, level: Privileged, told: "--datapath=Auto", netAdmin: true},
		{choice: v1alpha1.DatapathAuto, level: Privileged, forAuto: true, told: "--datapath=Auto", netAdmin: true, device: true},
		{choice: v1alpha1.DatapathAuto, level: Restricted, forAuto: true, told: "--datapath-why=Auto: Netstack; namespace shop enforces Pod Security level restricted, which forbids NET_ADMIN"},
		{choice: v1alpha1.DatapathKernel, level: Privileged, forAuto: true, told: "--datapath=Kernel", netAdmin: true},
		{choice: v1alpha1.DatapathKernel, level: Baseline, refused: "spec.gateway.datapath: Kernel, which needs NET_ADMIN"},
		{choice: "Warp", level: Privileged, refused: "which a gateway cannot have"},
	} {
		c, tunnel := testGateway()
		tunnel.Spec.Gateway.Datapath = tt.choice
		tunnel.Spec.Gateway.Resources = &v1alpha1.GatewayResources{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")}}
		c.TUNResource, c.TUNForAuto = testDevice, tt.forAuto
		at := testSite(tt.level)
		at.UserNamespacesOn = true
		name := string(tt.choice) + " at " + string(tt.level)
		refused := c.GatewayRefused(tunnel, at)
		d := deploymentOf(c.Gateway(tunnel, at))
		if (refused == "") != (tt.refused == "") || !strings.Contains(refused, tt.refused) || (d == nil) != (refused != "") {
			t.Errorf("%s: refused %q, Deployment %t", name, refused, d != nil)
		}
		if d == nil {
			continue
		}
		spec := d.Spec.Template.Spec
		ct := spec.Containers[0]
		_, limit := ct.Resources.Limits[testDevice]
		_, request := ct.Resources.Requests[testDevice]
		told := slices.DeleteFunc(slices.Clone(ct.Args), func(s string) bool { return !strings.HasPrefix(s, "--datapath") })
		if add := ct.SecurityContext.Capabilities.Add; (len(add) == 1 && add[0] == "NET_ADMIN") != tt.netAdmin || len(add) > 1 || limit != tt.device || request != tt.device ||
			strings.Join(told, " ") != tt.told || (spec.HostUsers != nil && !*spec.HostUsers) != tt.netAdmin {
			t.Errorf("%s: capabilities %v, resources %v, told %q, hostUsers %v", name, add, ct.Resources, told, spec.HostUsers)
		}
		if sc := ct.SecurityContext; !*sc.RunAsNonRoot || *sc.AllowPrivilegeEscalation || *sc.RunAsUser == 0 {
			t.Errorf("%s: %+v", name, sc)
		}
		level := api.Level(tt.level)
		if tt.level == "" {
			level = api.LevelPrivileged
		}
		if !admits(t, evaluator, level, &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: spec}, true) {
			t.Errorf("%s: not admitted by Pod Security", name)
		}
	}
}

// The webhook lets a gateway's pod pass that has what the namespace allows it, and none that has more.
func TestGatewayPodOnTUNPasses(t *testing.T) {
	pod := func(choice v1alpha1.DatapathChoice, level PodSecurityLevel) *corev1.Pod {
		c, tunnel := testGateway()
		tunnel.Spec.Gateway.Datapath, c.TUNResource = choice, testDevice
		template := deploymentOf(c.Gateway(tunnel, testSite(level))).Spec.Template.DeepCopy()
		return &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	}
	for name, tt := range map[string]struct {
		pod    *corev1.Pod
		choice v1alpha1.DatapathChoice
		level  PodSecurityLevel
		change func(*corev1.Pod)
		want   Reason
	}{
		"TUN":                          {pod: pod(v1alpha1.DatapathTUN, Privileged), choice: v1alpha1.DatapathTUN, level: Privileged, want: GatewayPod},
		"Auto":                         {pod: pod(v1alpha1.DatapathAuto, Privileged), choice: v1alpha1.DatapathAuto, level: Privileged, want: GatewayPod},
		"Auto, restricted":             {pod: pod(v1alpha1.DatapathAuto, Restricted), choice: v1alpha1.DatapathAuto, level: Restricted, want: GatewayPod},
		"without a user namespace":     {pod: pod(v1alpha1.DatapathTUN, Privileged), choice: v1alpha1.DatapathTUN, level: Privileged, change: func(p *corev1.Pod) { p.Spec.HostUsers = nil }, want: GatewayPod},
		"TUN of a tunnel that has not": {pod: pod(v1alpha1.DatapathTUN, Privileged), choice: v1alpha1.DatapathNetstack, level: Privileged, want: LabelConflict},
		"Netstack of one that has":     {pod: pod(v1alpha1.DatapathNetstack, Privileged), choice: v1alpha1.DatapathTUN, level: Privileged, want: LabelConflict},
		"where it is forbidden now":    {pod: pod(v1alpha1.DatapathTUN, Privileged), choice: v1alpha1.DatapathTUN, level: Baseline, want: DatapathForbidden},
		"one more capability": {pod: pod(v1alpha1.DatapathTUN, Privileged), choice: v1alpha1.DatapathTUN, level: Privileged, change: func(p *corev1.Pod) {
			add := &p.Spec.Containers[0].SecurityContext.Capabilities.Add
			*add = append(*add, "SYS_ADMIN")
		}, want: LabelConflict},
		"root": {pod: pod(v1alpha1.DatapathTUN, Privileged), choice: v1alpha1.DatapathTUN, level: Privileged, change: func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.RunAsUser = ptr.To[int64](0) }, want: LabelConflict},
	} {
		in := testInput()
		_, tunnel := testGateway()
		tunnel.Spec.Gateway.Datapath = tt.choice
		in.Tunnels[0], in.Config.TUNResource, in.Namespace, in.UserNamespacesOn = *tunnel, testDevice, testSite(tt.level).Namespace, true
		in.Pod = tt.pod
		if tt.change != nil {
			tt.change(in.Pod)
		}
		d := Decide(finish(t, in))
		if d.Reason != tt.want || tt.want == GatewayPod && (d.Outcome != Skip || d.Tunnel != "main") || tt.want != GatewayPod && d.Outcome != Deny {
			t.Errorf("%s: %s %s: %s", name, d.Outcome, d.Reason, d.Message)
		}
	}
}
