package injector

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func testConfig() *Config {
	c := DefaultConfig()
	c.Image, c.GatewayImage = "registry.example/tenantwire/sidecar:v0.1.0", "registry.example/tenantwire/gateway:v0.1.0"
	c.CoordinatorURL = "https://tenantwire-coordinator.tenantwire-system.svc:8443"
	return &c
}

func testNamespace() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{
		v1alpha1.LabelInject: v1alpha1.InjectEnabled, enforceLabel: string(Restricted)}}}
}

// testInput is a pod that is injected: a tunnel that carries Service web (8080/TCP) and host db.corp.internal (5432/TCP).
func testInput() *Input {
	return &Input{
		Namespace: testNamespace(),
		Config:    testConfig(),
		Pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "app", Labels: map[string]string{"app": "cart"}, Annotations: map[string]string{}},
			Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{{Name: "setup", Image: "setup:1"}},
				Containers:     []corev1.Container{{Name: "app", Image: "app:1"}},
			},
		},
		Tunnels: []v1alpha1.TenantTunnel{{
			ObjectMeta: metav1.ObjectMeta{Name: "main", Namespace: "shop", Generation: 3},
			Spec: v1alpha1.TenantTunnelSpec{
				Datapath: v1alpha1.DatapathNetstack,
				Expose:   []v1alpha1.ExposedService{{Service: "web"}},
				Egress:   []v1alpha1.EgressHost{{Host: "db.corp.internal", Address: "10.20.0.5", Ports: []v1alpha1.Port{{Port: 5432}}}},
			},
		}},
		Services: []corev1.Service{{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 8080}}},
		}},
	}
}

// finish makes Raw what Pod says.
func finish(t testing.TB, in *Input) Input {
	t.Helper()
	raw, err := json.Marshal(in.Pod)
	if err != nil {
		t.Fatal(err)
	}
	in.Raw = raw
	return *in
}

func annotate(key, value string) func(*Input) {
	return func(in *Input) { in.Pod.Annotations[key] = value }
}

func secondTunnel(in *Input, selector map[string]string) *v1alpha1.TenantTunnel {
	t := v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Name: "second", Namespace: "shop"}}
	if selector != nil {
		t.Spec.Members.Selector = &metav1.LabelSelector{MatchLabels: selector}
	}
	in.Tunnels = append(in.Tunnels, t)
	return &in.Tunnels[len(in.Tunnels)-1]
}

func deleting(t *v1alpha1.TenantTunnel) {
	t.DeletionTimestamp = &metav1.Time{}
	*t.DeletionTimestamp = metav1.Unix(1, 0)
}

func notAccepted(generation int64) func(*Input) {
	return func(in *Input) {
		in.Tunnels[0].Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse,
			Reason: "Invalid", Message: "spec.egress is wrong", ObservedGeneration: generation}}
	}
}

func sysctl(value string) func(*Input) {
	return func(in *Input) {
		in.Tunnels[0].Spec.Egress[0].Ports[0].Port = 443
		in.Pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: lowPortSysctl, Value: value}}}
	}
}

func container(in *Input) *corev1.Container { return &in.Pod.Spec.Containers[0] }

// datapath has the tunnel ask for one, in a namespace of a Pod Security level; empty: none is said.
func datapath(choice v1alpha1.DatapathChoice, level string) func(*Input) {
	return func(in *Input) {
		in.Tunnels[0].Spec.Datapath = choice
		in.Namespace.Labels[enforceLabel] = level
		if level == "" {
			delete(in.Namespace.Labels, enforceLabel)
		}
	}
}

// TestDecide changes one thing each in a pod that is injected. A message has to hold what whoever reads it needs.
func TestDecide(t *testing.T) {
	tests := []struct {
		name    string
		change  func(*Input)
		reason  Reason
		message []string
	}{
		{"unchanged", func(*Input) {}, Injected, []string{"main"}},
		{"namespace without label", func(in *Input) { in.Namespace.Labels = nil }, NamespaceNotOptedIn, []string{"shop", v1alpha1.LabelInject}},
		{"namespace with another value", func(in *Input) { in.Namespace.Labels[v1alpha1.LabelInject] = "true" }, NamespaceNotOptedIn, nil},

		{"opted out", annotate(v1alpha1.AnnotationInject, "false"), OptedOut, nil},
		{"opted out, no tunnel", func(in *Input) { in.Tunnels = nil; annotate(v1alpha1.AnnotationInject, "false")(in) }, OptedOut, nil},
		{"opted out in the node's network", func(in *Input) { in.Pod.Spec.HostNetwork = true; annotate(v1alpha1.AnnotationInject, "false")(in) }, OptedOut, nil},
		{"opted in explicitly", annotate(v1alpha1.AnnotationInject, "true"), Injected, nil},
		{"opt out malformed", annotate(v1alpha1.AnnotationInject, "False"), MalformedAnnotation, []string{`"False"`, v1alpha1.AnnotationInject}},
		{"opt out empty", annotate(v1alpha1.AnnotationInject, ""), MalformedAnnotation, nil},
		{"opt out where required", func(in *Input) {
			in.Tunnels[0].Spec.Members.Enforcement = v1alpha1.EnforcementRequired
			annotate(v1alpha1.AnnotationInject, "false")(in)
		}, OptOutForbidden, []string{"main", "Required"}},
		{"opt out where one of several requires", func(in *Input) {
			secondTunnel(in, map[string]string{"app": "cart"}).Spec.Members.Enforcement = v1alpha1.EnforcementRequired
			annotate(v1alpha1.AnnotationInject, "false")(in)
		}, OptOutForbidden, []string{"second"}},
		{"opt out where another pod's tunnel requires", func(in *Input) {
			secondTunnel(in, map[string]string{"app": "other"}).Spec.Members.Enforcement = v1alpha1.EnforcementRequired
			annotate(v1alpha1.AnnotationInject, "false")(in)
		}, OptedOut, nil},
		{"opted out with a member's label", func(in *Input) {
			in.Pod.Labels[v1alpha1.LabelTunnel] = "main"
			annotate(v1alpha1.AnnotationInject, "false")(in)
		}, LabelConflict, nil},

		{"gateway of the tunnel", func(in *Input) {
			_, tunnel := testGateway()
			in.Tunnels[0] = *tunnel
			template := gatewayDeployment(t).Spec.Template
			in.Pod = &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		}, GatewayPod, []string{"main"}},
		{"no gateway of the tunnel", func(in *Input) { in.Pod.Labels[v1alpha1.LabelRole] = v1alpha1.LabelRoleGateway }, LabelConflict, []string{v1alpha1.LabelRole}},

		{"mistyped annotation", annotate("tenantwire.dev/tunnell", "main"), UnknownKey, []string{"tenantwire.dev/tunnell", v1alpha1.AnnotationTunnel}},
		{"annotation as label", func(in *Input) { in.Pod.Labels[v1alpha1.AnnotationInject] = "false" }, UnknownKey, []string{"known annotations", v1alpha1.AnnotationInject}},
		{"annotation of somebody else", annotate("tenantwire.development/x", "1"), Injected, nil},

		{"no tunnel", func(in *Input) { in.Tunnels = nil }, NoTunnel, []string{"TenantTunnel", "shop"}},
		{"unknown tunnel", annotate(v1alpha1.AnnotationTunnel, "mian"), UnknownTunnel, []string{`"mian"`, "main"}},
		{"named tunnel", func(in *Input) { secondTunnel(in, nil); annotate(v1alpha1.AnnotationTunnel, "second")(in) }, Injected, []string{"second"}},
		{"named tunnel selects another", func(in *Input) {
			secondTunnel(in, map[string]string{"app": "x"})
			annotate(v1alpha1.AnnotationTunnel, "second")(in)
		}, TunnelSelectsNotPod, []string{"second", "selector"}},
		{"several tunnels", func(in *Input) { secondTunnel(in, nil) }, AmbiguousTunnel, []string{"main, second", v1alpha1.AnnotationTunnel}},
		{"several tunnels, one selects", func(in *Input) { secondTunnel(in, map[string]string{"app": "x"}) }, Injected, []string{"main"}},
		{"several tunnels, one being deleted", func(in *Input) { deleting(secondTunnel(in, nil)) }, Injected, []string{"main"}},
		{"none selects", func(in *Input) {
			in.Tunnels[0].Spec.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
		}, NotSelected, nil},
		{"none selects, but a member's label", func(in *Input) {
			in.Tunnels[0].Spec.Members.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
			in.Pod.Labels[v1alpha1.LabelTunnel] = "main"
		}, LabelConflict, []string{"main"}},
		{"selector unreadable", func(in *Input) {
			in.Tunnels[0].Spec.Members.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "?"}}}
		}, TunnelNotAccepted, []string{"main"}},
		{"label of another tunnel", func(in *Input) { in.Pod.Labels[v1alpha1.LabelTunnel] = "other" }, LabelConflict, []string{`"other"`, "main"}},
		{"label of the tunnel", func(in *Input) { in.Pod.Labels[v1alpha1.LabelTunnel] = "main" }, Injected, nil},
		{"tunnel being deleted", func(in *Input) { deleting(&in.Tunnels[0]) }, TunnelDeleting, []string{"main"}},
		{"tunnel not accepted", notAccepted(3), TunnelNotAccepted, []string{"spec.egress is wrong", "Invalid"}},
		{"tunnel not accepted before it was changed", notAccepted(2), Injected, nil},
		{"kernel datapath in a restricted namespace", datapath(v1alpha1.DatapathKernel, "restricted"), DatapathForbidden,
			[]string{"main", "Kernel", "NET_ADMIN", "namespace shop", "restricted", enforceLabel + "=privileged", "Auto"}},
		{"tun datapath in a baseline namespace", datapath(v1alpha1.DatapathTUN, "baseline"), DatapathForbidden, []string{"TUN", "level baseline"}},
		{"tun datapath in a namespace of an unknown level", datapath(v1alpha1.DatapathTUN, "Privileged"), DatapathForbidden, []string{"level restricted"}},
		{"tun datapath where the cluster's default forbids it", func(in *Input) {
			datapath(v1alpha1.DatapathTUN, "")(in)
			in.Config.PodSecurityDefault = Baseline
		}, DatapathForbidden, []string{"cluster's default Pod Security level, baseline"}},
		{"kernel datapath where the cluster's default allows it", datapath(v1alpha1.DatapathKernel, ""), Injected, []string{"datapath Kernel with NET_ADMIN"}},
		{"tun datapath in a privileged namespace", datapath(v1alpha1.DatapathTUN, "privileged"), Injected, []string{"datapath TUN with NET_ADMIN"}},
		{"auto datapath in a privileged namespace", datapath(v1alpha1.DatapathAuto, "privileged"), Injected, []string{"datapath Auto with NET_ADMIN"}},
		{"auto datapath by default", datapath("", "privileged"), Injected, []string{"datapath Auto with NET_ADMIN"}},
		{"auto datapath in a restricted namespace", datapath(v1alpha1.DatapathAuto, "restricted"), Injected, []string{"datapath Netstack"}},
		{"netstack datapath in a privileged namespace", datapath(v1alpha1.DatapathNetstack, "privileged"), Injected, []string{"datapath Netstack"}},

		{"node's network", func(in *Input) { in.Pod.Spec.HostNetwork = true }, HostNetwork, []string{"spec.hostNetwork"}},
		{"windows by os", func(in *Input) { in.Pod.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, WindowsPod, []string{"spec.os.name"}},
		{"windows by node", func(in *Input) { in.Pod.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} }, WindowsPod, []string{"spec.nodeSelector"}},
		{"linux by os", func(in *Input) { in.Pod.Spec.OS = &corev1.PodOS{Name: corev1.Linux} }, Injected, nil},
		{"static pod", annotate(corev1.MirrorPodAnnotationKey, "x"), StaticPod, nil},

		{"expose malformed", annotate(v1alpha1.AnnotationExpose, "eighty"), MalformedAnnotation, []string{"eighty", v1alpha1.AnnotationExpose}},
		{"expose", annotate(v1alpha1.AnnotationExpose, "8090, 53/udp"), Injected, nil},
		{"carry unknown", annotate(v1alpha1.AnnotationCarry, "web, wbe"), MalformedAnnotation, []string{`"wbe"`, "web, db.corp.internal"}},
		{"carry stray comma", annotate(v1alpha1.AnnotationCarry, "web,"), MalformedAnnotation, nil},

		{"container of our name", func(in *Input) { container(in).Name = ContainerName }, ReservedName, []string{"spec.containers[0].name"}},
		{"init container of our name", func(in *Input) { in.Pod.Spec.InitContainers[0].Name = ContainerName }, ReservedName, []string{"spec.initContainers[0]"}},
		{"two of our name", func(in *Input) {
			in.Pod.Spec.InitContainers = []corev1.Container{{Name: ContainerName}, {Name: ContainerName}}
		}, ReservedName, []string{"spec.initContainers"}},
		{"volume of our prefix", func(in *Input) { in.Pod.Spec.Volumes = []corev1.Volume{{Name: "tenantwire-x"}} }, ReservedName, []string{"spec.volumes[0].name"}},
		{"state volume on the node's disk", func(in *Input) {
			in.Pod.Spec.Volumes = []corev1.Volume{{Name: StateVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		}, ReservedName, []string{"spec.volumes[0]", "emptyDir"}},
		{"mount of the key's volume", func(in *Input) {
			container(in).VolumeMounts = []corev1.VolumeMount{{Name: StateVolume, MountPath: "/x"}}
		}, ReservedMount, []string{"spec.containers[0].volumeMounts[0].name"}},
		{"mount over our path", func(in *Input) {
			container(in).VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/var/run//tenantwire/"}}
		}, ReservedMount, []string{"mountPath"}},
		{"wireguard port", func(in *Input) {
			container(in).Ports = []corev1.ContainerPort{{ContainerPort: ListenPort, Protocol: corev1.ProtocolUDP}}
		}, ReservedPort, []string{"51820/UDP", "spec.containers[0].ports[0]"}},
		{"wireguard port of another protocol", func(in *Input) { container(in).Ports = []corev1.ContainerPort{{ContainerPort: ListenPort}} }, Injected, nil},
		{"health port", func(in *Input) {
			in.Pod.Spec.InitContainers[0].Ports = []corev1.ContainerPort{{ContainerPort: HealthPort}}
		}, ReservedPort, []string{"spec.initContainers[0].ports[0]"}},
		{"health port exposed", annotate(v1alpha1.AnnotationExpose, "51821"), ReservedPort, []string{v1alpha1.AnnotationExpose}},
		{"probe of the health port", func(in *Input) {
			container(in).ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(HealthPort)}}}
		}, ReservedPort, []string{"spec.containers[0].readinessProbe.tcpSocket.port"}},
		{"carried wireguard port", func(in *Input) {
			in.Tunnels[0].Spec.Egress[0].Ports[0] = v1alpha1.Port{Port: ListenPort, Protocol: v1alpha1.UDP}
		}, ReservedPort, []string{"db.corp.internal"}},

		{"alias of a carried Service", func(in *Input) {
			in.Pod.Spec.HostAliases = []corev1.HostAlias{{IP: "10.0.0.1", Hostnames: []string{"x", "Web.shop.svc"}}}
		}, HostAliasConflict, []string{"spec.hostAliases[0].hostnames[1]", v1alpha1.AnnotationCarry}},
		{"alias of a carried host", func(in *Input) {
			in.Pod.Spec.HostAliases = []corev1.HostAlias{{IP: "10.0.0.1", Hostnames: []string{"db.corp.internal"}}}
		}, HostAliasConflict, nil},
		{"alias at our address", func(in *Input) {
			in.Pod.Spec.HostAliases = []corev1.HostAlias{{IP: "127.77.0.1", Hostnames: []string{"x"}}}
		}, HostAliasConflict, []string{"127.77.0.1"}},
		{"alias of a name that is not carried", func(in *Input) {
			in.Pod.Spec.HostAliases = []corev1.HostAlias{{IP: "10.0.0.1", Hostnames: []string{"db.corp.internal"}}}
			annotate(v1alpha1.AnnotationCarry, "web")(in)
		}, Injected, nil},

		{"port of a carried Service", func(in *Input) { container(in).Ports = []corev1.ContainerPort{{ContainerPort: 8080}} }, PortConflict,
			[]string{"8080/TCP", "web", "port: 80", v1alpha1.AnnotationCarry}},
		{"port of a carried Service, other protocol", func(in *Input) {
			container(in).Ports = []corev1.ContainerPort{{ContainerPort: 8080, Protocol: corev1.ProtocolUDP}}
		}, Injected, nil},
		{"port of a Service that is not carried", func(in *Input) {
			container(in).Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
			annotate(v1alpha1.AnnotationCarry, "db.corp.internal")(in)
		}, Injected, nil},
		{"port of its own Service", func(in *Input) {
			in.Pod.Labels["app"] = "web"
			container(in).Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
		}, Injected, nil},
		{"port that its own Service leads to, undeclared, of another Service", func(in *Input) {
			in.Pod.Labels["app"] = "web"
			other := in.Services[0].DeepCopy()
			other.Name, other.Spec.Selector = "api", map[string]string{"app": "api"}
			in.Services = append(in.Services, *other)
			in.Tunnels[0].Spec.Expose = append(in.Tunnels[0].Spec.Expose, v1alpha1.ExposedService{Service: "api"})
		}, PortConflict, []string{"8080/TCP", "api"}},
		{"port of a Service without selector", func(in *Input) {
			in.Services[0].Spec.Selector = nil
			container(in).Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
		}, PortConflict, nil},
		{"exposed port of a carried host", annotate(v1alpha1.AnnotationExpose, "5432"), PortConflict, []string{"5432/TCP", "db.corp.internal"}},
		{"port of a proxy", func(in *Input) {
			in.Tunnels[0].Spec.Proxies = []v1alpha1.Proxy{{Protocol: v1alpha1.SOCKS5, Port: 1080}}
			container(in).Ports = []corev1.ContainerPort{{ContainerPort: 1080}}
		}, PortConflict, []string{"1080/TCP", "SOCKS5"}},

		{"sysctl too high", sysctl("1024"), SysctlConflict, []string{"spec.securityContext.sysctls[0]", "1024", "db.corp.internal"}},
		{"sysctl just enough", sysctl("443"), Injected, nil},
		{"sysctl unreadable", sysctl("low"), SysctlConflict, nil},
		{"sysctl for a Service unknown yet", func(in *Input) { sysctl("443")(in); in.Services = nil }, SysctlConflict, []string{"web"}},
		{"pod that is not one", func(in *Input) {
			in.Pod.Spec.Volumes = []corev1.Volume{{Name: StateVolume}}
			in.Raw = []byte(`{"spec":{"volumes":[null]}}`)
		}, InvalidPod, nil},
	}
	seen := map[Reason]bool{InternalError: true, ClusterNotObservable: true} // the webhook's
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := testInput()
			tt.change(in)
			if in.Raw == nil {
				finish(t, in)
			}
			d := Decide(*in)
			if d.Reason != tt.reason {
				t.Fatalf("%s: %s", d.Reason, d.Message)
			}
			seen[d.Reason] = true
			if d.Outcome != OutcomeOf(d.Reason) || (d.Plan != nil) != (d.Outcome == Inject) {
				t.Errorf("outcome %s, plan %v", d.Outcome, d.Plan)
			}
			for _, m := range tt.message {
				if !strings.Contains(d.Message, m) {
					t.Errorf("message %q does not hold %q", d.Message, m)
				}
			}
		})
	}
	for _, r := range Reasons() {
		if !seen[r] {
			t.Errorf("no test leads to %s", r)
		}
	}
}

func TestWarnings(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Input)
		want   string // "": no warning
	}{
		{"none", func(*Input) {}, ""},
		{"opted out", annotate(v1alpha1.AnnotationInject, "false"), "not encrypted"},
		{"shared processes", func(in *Input) { in.Pod.Spec.ShareProcessNamespace = ptr.To(true) }, "spec.shareProcessNamespace"},
		{"the node's processes", func(in *Input) { in.Pod.Spec.HostPID = true }, "spec.hostPID"},
		{"its own Service", func(in *Input) {
			in.Pod.Labels["app"] = "web"
			container(in).Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
		}, "web:8080 leads to itself"},
		{"Auto without privileges", datapath(v1alpha1.DatapathAuto, "baseline"), "Auto: Netstack; namespace shop enforces Pod Security level baseline, which forbids NET_ADMIN"},
		{"Auto without privileges by default", func(in *Input) {
			datapath("", "")(in)
			in.Config.PodSecurityDefault = Restricted
		}, "the cluster's default Pod Security level, restricted"},
		{"Auto with privileges", datapath(v1alpha1.DatapathAuto, "privileged"), ""},
		{"TUN without a resource for the device", datapath(v1alpha1.DatapathTUN, "privileged"), "--tun-resource"},
		{"TUN with one", func(in *Input) {
			datapath(v1alpha1.DatapathTUN, "privileged")(in)
			in.Config.TUNResource = "devices.example/tun"
		}, ""},
		{"Kernel beside a container with NET_ADMIN", func(in *Input) {
			datapath(v1alpha1.DatapathKernel, "privileged")(in)
			container(in).SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}}
		}, "spec.containers[0].securityContext"},
		{"Kernel beside a privileged container", func(in *Input) {
			datapath(v1alpha1.DatapathKernel, "privileged")(in)
			in.Pod.Spec.InitContainers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		}, "spec.initContainers[0].securityContext"},
		{"Netstack beside a privileged container", func(in *Input) {
			in.Pod.Spec.InitContainers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
		}, ""},
		{"hostname of a carried Service", func(in *Input) { in.Pod.Spec.Hostname = "web" }, "web.shop.svc.cluster.local"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := testInput()
			tt.change(in)
			got := Decide(finish(t, in)).Warnings
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
				t.Errorf("warnings %q, want one with %q", got, tt.want)
			}
		})
	}
}

// Behind its own Service on the same port, the application holds the port whether the pod declares it or not: the sidecar must not
// take it first.
func TestOwnPortIsLeftToTheApplication(t *testing.T) {
	for _, declared := range []bool{true, false} {
		in := testInput()
		in.Pod.Labels["app"] = "web"
		if declared {
			in.Pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
		}
		d := Decide(finish(t, in))
		if d.Plan == nil || !slices.Contains(d.Plan.Container.Args, "--own-port=8080/TCP") {
			t.Errorf("declared %t: %s: %+v", declared, d.Message, d.Plan)
		}
	}
}
