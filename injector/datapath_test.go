package injector

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// TestGrants: what each choice is given at each level, and nothing beyond it.
func TestGrants(t *testing.T) {
	const device = "devices.example/tun"
	for _, tt := range []struct {
		choice    v1alpha1.DatapathChoice
		level     string
		forAuto   bool
		told      string
		netAdmin  bool
		tunDevice bool
	}{
		{v1alpha1.DatapathAuto, "privileged", false, "Auto", true, false},
		{v1alpha1.DatapathAuto, "privileged", true, "Auto", true, true},
		{v1alpha1.DatapathAuto, "baseline", true, "Netstack", false, false},
		{v1alpha1.DatapathAuto, "restricted", true, "Netstack", false, false},
		{v1alpha1.DatapathKernel, "privileged", true, "Kernel", true, false},
		{v1alpha1.DatapathTUN, "privileged", false, "TUN", true, true},
		{v1alpha1.DatapathNetstack, "privileged", true, "Netstack", false, false},
		{v1alpha1.DatapathNetstack, "restricted", true, "Netstack", false, false},
	} {
		in := testInput()
		datapath(tt.choice, tt.level)(in)
		in.Config.TUNResource, in.Config.TUNForAuto = device, tt.forAuto
		d := Decide(finish(t, in))
		if d.Plan == nil {
			t.Errorf("%s, %s: %s", tt.choice, tt.level, d.Message)
			continue
		}
		ct := d.Plan.Container
		_, limit := ct.Resources.Limits[device]
		_, request := ct.Resources.Requests[device]
		if add := ct.SecurityContext.Capabilities.Add; (len(add) == 1 && add[0] == "NET_ADMIN") != tt.netAdmin || len(add) > 1 ||
			limit != tt.tunDevice || request != tt.tunDevice || !slices.Contains(ct.Args, "--datapath="+tt.told) {
			t.Errorf("%s, %s: capabilities %v, resources %v, arguments %v", tt.choice, tt.level, add, ct.Resources, ct.Args)
		}
		if sc := ct.SecurityContext; !*sc.RunAsNonRoot || *sc.AllowPrivilegeEscalation || *sc.RunAsUser == 0 {
			t.Errorf("%s, %s: %+v", tt.choice, tt.level, sc)
		}
		if _, kept := in.Config.Resources.Limits[device]; kept {
			t.Fatal("the configuration was changed")
		}
	}
}

// TestLevelsHold: whatever the tunnel says and whatever the operator may ask for, a pod that its namespace's level admits is admitted
// by it after injection too, or refused by us with a reason.
func TestLevelsHold(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tried := map[api.Level]int{}
	for _, g := range goldens(t) {
		for _, level := range []api.Level{api.LevelPrivileged, api.LevelBaseline, api.LevelRestricted} {
			for _, choice := range []v1alpha1.DatapathChoice{"", v1alpha1.DatapathAuto, v1alpha1.DatapathKernel, v1alpha1.DatapathTUN, v1alpha1.DatapathNetstack} {
				in := g.input
				in.Config = testConfig()
				in.Config.TUNResource, in.Config.TUNForAuto, in.Config.UserNamespaces = "devices.example/tun", true, UserNamespacesAlways
				in.Namespace = in.Namespace.DeepCopy()
				in.Namespace.Labels[enforceLabel] = string(level)
				in.Tunnels = slices.Clone(in.Tunnels)
				for i := range in.Tunnels {
					in.Tunnels[i].Spec.Datapath = choice
				}
				d := Decide(in)
				if d.Plan == nil || !admits(t, evaluator, level, in.Pod, false) {
					continue
				}
				pod, err := ParsePod(mustPatch(t, in, d))
				if err != nil {
					t.Fatal(err)
				}
				tried[level]++
				if !admits(t, evaluator, level, pod, true) {
					t.Errorf("%s: datapath %q broke %s", g.path, choice, level)
				}
			}
		}
	}
	for _, level := range []api.Level{api.LevelPrivileged, api.LevelBaseline, api.LevelRestricted} {
		if tried[level] < 20 {
			t.Errorf("%d pods of level %s: the test proves too little", tried[level], level)
		}
	}
}

// TestUserNamespace: a pod gets one where NET_ADMIN is granted and nothing in it might notice.
func TestUserNamespace(t *testing.T) {
	volume := func(s corev1.VolumeSource) func(*Input) {
		return func(in *Input) { in.Pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: s}} }
	}
	context := func(sc corev1.SecurityContext) func(*Input) {
		return func(in *Input) { container(in).SecurityContext = &sc }
	}
	for name, tt := range map[string]struct {
		change func(*Input)
		want   bool
	}{
		"an ordinary pod":      {func(*Input) {}, true},
		"memory":               {volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}), true},
		"configuration":        {volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}), true},
		"secret":               {volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}), true},
		"as user 1000":         {context(corev1.SecurityContext{RunAsUser: ptr.To[int64](1000)}), true},
		"not asked for":        {func(in *Input) { in.Config.UserNamespaces = UserNamespacesNever }, false},
		"not on every node":    {func(in *Input) { in.UserNamespacesOn = false }, false},
		"always":               {func(in *Input) { in.UserNamespacesOn, in.Config.UserNamespaces = false, UserNamespacesAlways }, true},
		"without NET_ADMIN":    {datapath(v1alpha1.DatapathNetstack, "privileged"), false},
		"restricted":           {datapath(v1alpha1.DatapathAuto, "restricted"), false},
		"says yes itself":      {func(in *Input) { in.Pod.Spec.HostUsers = ptr.To(false) }, false},
		"says no itself":       {func(in *Input) { in.Pod.Spec.HostUsers = ptr.To(true) }, false},
		"the node's processes": {func(in *Input) { in.Pod.Spec.HostPID = true }, false},
		"the node's IPC":       {func(in *Input) { in.Pod.Spec.HostIPC = true }, false},
		"another runtime":      {func(in *Input) { in.Pod.Spec.RuntimeClassName = ptr.To("kata") }, false},
		"the node's files":     {volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}), false},
		"a claim":              {volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}), false},
		"NFS":                  {volume(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}), false},
		"huge pages":           {volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "HugePages-2Mi"}}), false},
		"privileged":           {context(corev1.SecurityContext{Privileged: ptr.To(true)}), false},
		"capabilities":         {context(corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_TIME"}}}), false},
		"a user not mapped":    {context(corev1.SecurityContext{RunAsUser: ptr.To[int64](1000650000)}), false},
		"a pod's group": {func(in *Input) {
			in.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](70000)}
		}, false},
		"supplemental groups": {func(in *Input) {
			in.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{SupplementalGroups: []int64{70000}}
		}, false},
		"a sidecar not mapped": {func(in *Input) { in.Config.User = 70000 }, false},
		"a block device":       {func(in *Input) { container(in).VolumeDevices = []corev1.VolumeDevice{{Name: "d"}} }, false},
		"a device": {func(in *Input) {
			container(in).Resources.Limits = corev1.ResourceList{"gpu.example/gpu": resource.MustParse("1")}
		}, false},
		"a claimed device": {func(in *Input) { in.Pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "d"}} }, false},
		"an init container's": {func(in *Input) {
			in.Pod.Spec.InitContainers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput()
			datapath(v1alpha1.DatapathAuto, "privileged")(in)
			in.UserNamespacesOn = true
			tt.change(in)
			d := Decide(finish(t, in))
			if d.Plan == nil {
				t.Fatal(d.Message)
			}
			before := in.Pod.Spec.HostUsers
			patched := mustPatch(t, *in, d)
			assertIdempotent(t, *in, patched)
			pod, err := ParsePod(patched)
			if err != nil {
				t.Fatal(err)
			}
			if now := pod.Spec.HostUsers; d.Plan.UserNamespace != tt.want || tt.want && (now == nil || *now) || !tt.want && !ptr.Equal(now, before) {
				t.Errorf("hostUsers %v, was %v", now, before)
			}
			if strings.Contains(d.Message, "user namespace") != tt.want {
				t.Errorf("message %q", d.Message)
			}
		})
	}
}

func TestUserNamespacesOn(t *testing.T) {
	node := func(kernel, handler string, have *bool) corev1.Node {
		return corev1.Node{Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KernelVersion: kernel},
			RuntimeHandlers: []corev1.NodeRuntimeHandler{{Name: "other"}, {Name: handler, Features: &corev1.NodeRuntimeHandlerFeatures{UserNamespaces: have}}}}}
	}
	good, windows := node("6.3.0-generic", "", ptr.To(true)), node("10.0", "", nil)
	windows.Labels = map[string]string{corev1.LabelOSStable: "windows"}
	for name, tt := range map[string]struct {
		nodes []corev1.Node
		want  bool
	}{
		"none":                             {nil, false},
		"all":                              {[]corev1.Node{good, node("10.0", "", ptr.To(true))}, true},
		"beside windows":                   {[]corev1.Node{windows, good}, true},
		"windows alone":                    {[]corev1.Node{windows}, false},
		"one with an old kernel":           {[]corev1.Node{good, node("6.2.16", "", ptr.To(true))}, false},
		"one with an older one":            {[]corev1.Node{good, node("5.15.0-91-generic", "", ptr.To(true))}, false},
		"one that says no":                 {[]corev1.Node{good, node("6.8.0", "", ptr.To(false))}, false},
		"one that does not say":            {[]corev1.Node{good, node("6.8.0", "", nil)}, false},
		"one whose other runtime has them": {[]corev1.Node{good, node("6.8.0", "kata", ptr.To(true))}, false},
		"one that says nothing":            {[]corev1.Node{good, {}}, false},
	} {
		if got := UserNamespacesOn(tt.nodes); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
