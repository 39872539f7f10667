package injector

import (
	"fmt"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Plan is what a pod has to have to be a member. Every field that the API server would default is set: what comes back from it is
// then what we sent, and what differs is somebody's doing.
type Plan struct {
	Tunnel    string
	Names     []Name
	Container corev1.Container
	Volumes   []corev1.Volume
	// Sysctls are for the pod's security context, where it does not set them itself.
	Sysctls []corev1.Sysctl
	// Env are the proxy variables that containers get which do not set them.
	Env []corev1.EnvVar
	// UserNamespace: the pod gets one, where it does not say anything about that.
	UserNamespace bool
	// Trace is the traceparent of the pod's admission; empty: it is not traced.
	Trace string

	grant grant
}

// String says what becomes of the pod's privileges.
func (p *Plan) String() string {
	if p.UserNamespace {
		return p.grant.String() + " in a user namespace"
	}
	return p.grant.String()
}

func (c *candidate) newPlan() *Plan {
	p := &Plan{
		Tunnel:    c.tunnel.Name,
		Names:     c.names,
		Container: c.sidecar(),
		Volumes:   volumes(),
		Env:       c.proxyEnv(),

		UserNamespace: c.userNamespace(),
		grant:         c.grant,
	}
	if c.lowPort {
		p.Sysctls = []corev1.Sysctl{{Name: lowPortSysctl, Value: "0"}}
	}
	return p
}

func (c *candidate) sidecar() corev1.Container {
	return corev1.Container{
		Name:            ContainerName,
		Image:           c.Config.Image,
		ImagePullPolicy: c.Config.ImagePullPolicy,
		Args:            c.args(),
		Env: []corev1.EnvVar{
			fieldEnv("POD_IP", "status.podIP"),
			fieldEnv("POD_NAME", "metadata.name"),
			fieldEnv("POD_NAMESPACE", "metadata.namespace"),
			// The sidecar derives its garbage collector's limit from this: a resourceFieldRef cannot say 90 %.
			resourceEnv("MEMORY_LIMIT", "limits.memory"),
			resourceEnv("CPU_LIMIT", "limits.cpu"),
		},
		Ports: []corev1.ContainerPort{
			{Name: "wg", ContainerPort: ListenPort, Protocol: corev1.ProtocolUDP},
			{Name: "tw-health", ContainerPort: HealthPort, Protocol: corev1.ProtocolTCP},
		},
		Resources:                c.resources(),
		RestartPolicy:            ptr.To(corev1.ContainerRestartPolicyAlways),
		SecurityContext:          c.securityContext(),
		StartupProbe:             probe("/readyz", 1, 120), // nothing else starts before the data path is up
		ReadinessProbe:           probe("/readyz", 5, 3),
		LivenessProbe:            probe("/healthz", 10, 6),
		TerminationMessagePath:   corev1.TerminationMessagePathDefault,
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		VolumeMounts: []corev1.VolumeMount{
			{Name: IdentityVolume, MountPath: IdentityPath, ReadOnly: true},
			{Name: StateVolume, MountPath: StatePath},
		},
	}
}

// resources are the configured ones. A pod with a budget of its own shares that: the API server refuses pods whose containers request
// more than it, and the budget is often exactly what the application's containers request. A budget knows no devices.
func (c *candidate) resources() corev1.ResourceRequirements {
	var r corev1.ResourceRequirements
	if c.Pod.Spec.Resources == nil {
		r = *c.Config.Resources.DeepCopy()
	}
	return c.withDevice(r)
}

// withDevice adds the TUN device, where it is granted.
func (c *candidate) withDevice(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	if c.grant.tun {
		one := corev1.ResourceList{c.Config.TUNResource: resource.MustParse("1")}
		r.Limits, r.Requests = with(r.Limits, one), with(r.Requests, one)
	}
	return r
}

func with(list, more corev1.ResourceList) corev1.ResourceList {
	if list == nil {
		return more
	}
	maps.Copy(list, more)
	return list
}

func (c *candidate) args() []string {
	args := []string{
		"--coordinator=" + c.Config.CoordinatorURL,
		"--token-file=" + IdentityPath + "/" + TokenKey,
		"--ca-file=" + IdentityPath + "/" + CAKey,
		"--state-dir=" + StatePath,
		"--listen-port=" + strconv.Itoa(ListenPort),
		"--health-port=" + strconv.Itoa(HealthPort),
		"--datapath=" + string(c.grant.choice),
	}
	if c.grant.why != "" {
		args = append(args, "--datapath-why="+c.grant.why)
	}
	for _, n := range c.names {
		args = append(args, fmt.Sprintf("--name=%s=%s", n.Name, n.Address))
	}
	for _, p := range c.held {
		args = append(args, "--own-port="+portName(p))
	}
	for _, p := range c.tunnel.Spec.Proxies {
		args = append(args, fmt.Sprintf("--proxy=%s=%d", p.Protocol, p.Port))
	}
	return args
}

// securityContext says everything itself: the pod's own settings may be anything, and the sidecar has to be admitted under Pod
// Security restricted, and be no more than that elsewhere, but for NET_ADMIN where that is granted. It is not root then either: its
// program has a file capability that lets it take, as any user, what the container has.
func (c *candidate) securityContext() *corev1.SecurityContext {
	sc := &corev1.SecurityContext{
		RunAsNonRoot:             ptr.To(true),
		AllowPrivilegeEscalation: ptr.To(false),
		ReadOnlyRootFilesystem:   ptr.To(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if c.grant.netAdmin {
		sc.Capabilities.Add = []corev1.Capability{netAdmin}
	}
	if c.Config.User != UnsetUser {
		sc.RunAsUser, sc.RunAsGroup = ptr.To(c.Config.User), ptr.To(c.Config.User)
	}
	return sc
}

// volumes are the sidecar's. The kubelet writes a projected token with mode 0600 and the containers' user when all of them share
// one, with mode 0640 and the pod's fsGroup when that is set, and otherwise with defaultMode: 0644 is what lets the sidecar read it
// beside applications of other users. Only the sidecar mounts the volume, and the token is good for our coordinator alone.
func volumes() []corev1.Volume {
	return []corev1.Volume{
		{Name: IdentityVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: ptr.To[int32](0o644),
			Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
					Audience: wire.TokenAudience, ExpirationSeconds: ptr.To[int64](tokenSeconds), Path: TokenKey,
				}},
				{ConfigMap: &corev1.ConfigMapProjection{
					LocalObjectReference: corev1.LocalObjectReference{Name: CAConfigMap},
					Items:                []corev1.KeyToPath{{Key: CAKey, Path: CAKey}},
				}},
			},
		}}},
		{Name: StateVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse(stateSize)),
		}}},
	}
}

// probeTimeout is in seconds. On a node that is short of CPU an answer is late, and a restart, which ends every connection of the
// pod, makes that worse: only a sidecar that hangs is to be restarted.
const probeTimeout = 10

func probe(path string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromInt32(HealthPort), Scheme: corev1.URISchemeHTTP,
		}},
		PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: probeTimeout, SuccessThreshold: 1,
	}
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path},
	}}
}

func resourceEnv(name, of string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
		ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: of, Divisor: resource.MustParse("1")},
	}}
}

// hostAliases lead the carried names to the sidecar.
func (p *Plan) hostAliases() []corev1.HostAlias {
	out := make([]corev1.HostAlias, len(p.Names))
	for i, n := range p.Names {
		out[i] = corev1.HostAlias{IP: n.Address.String(), Hostnames: n.Hostnames}
	}
	return out
}
