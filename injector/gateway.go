package injector

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The gateway's own key, from a Secret of its own.
const (
	keyVolume = VolumePrefix + "key"
	keyPath   = "/etc/tenantwire/key"
	KeyName   = "private" // in the Secret
)

// Peers' preshared keys, from a Secret that the tenant makes, or not.
const (
	presharedVolume = VolumePrefix + "psk"
	presharedPath   = "/etc/tenantwire/psk"
)

// gatewayContainer is the name of the gateway's only container.
const gatewayContainer = "gateway"

// Gateway is everything that a tunnel's gateway consists of but the Secret with its key, the Deployment last: all in the tunnel's
// namespace, owned by the tunnel, and to be applied as they are. A gateway's pods may change their one Lease and nothing else. Where
// GatewayRefused, it is nothing: what there is stays as it is.
func (c *Config) Gateway(t *v1alpha1.TenantTunnel, at Site) []runtime.Object {
	g, refused := c.newGateway(t, at)
	if refused != "" {
		return nil
	}
	return []runtime.Object{g.account(), g.lease(), g.role(), g.roleBinding(), g.service(), g.networkPolicy(), g.disruptionBudget(), g.deployment()}
}

// GatewayKey is the Secret of a gateway's key.
func GatewayKey(t *v1alpha1.TenantTunnel, key string) *corev1.Secret {
	g := gateway{tunnel: t, name: tenant.GatewayName(t.Name)}
	meta := g.meta()
	meta.Name = g.secret()
	return &corev1.Secret{TypeMeta: kind("v1", "Secret"), ObjectMeta: meta, Immutable: ptr.To(true), StringData: map[string]string{KeyName: key}}
}

// secret is another one for a tunnel that is made anew under its name: the old one's goes with it, but not at once.
func (g *gateway) secret() string { return fmt.Sprintf("%s-%.8s", g.name, g.tunnel.UID) }

// gateway plans the gateway of one tunnel.
type gateway struct {
	*Config
	tunnel    *v1alpha1.TenantTunnel
	name      string
	grant     grant
	apart     bool // in a user namespace of its own
	takesOver bool // one is about to be active
}

func (g *gateway) replicas() int32 { return max(1, g.tunnel.Spec.Gateway.Replicas) }

func kind(apiVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
}

// labels select the gateway's pods.
func (g *gateway) labels() map[string]string {
	return map[string]string{v1alpha1.LabelTunnel: g.tunnel.Name, v1alpha1.LabelRole: v1alpha1.LabelRoleGateway}
}

func (g *gateway) meta() metav1.ObjectMeta {
	labels := g.labels()
	labels["app.kubernetes.io/managed-by"] = "tenantwire"
	return metav1.ObjectMeta{Namespace: g.tunnel.Namespace, Name: g.name, Labels: labels, OwnerReferences: []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "TenantTunnel", Name: g.tunnel.Name, UID: g.tunnel.UID, Controller: ptr.To(true)}}}
}

func (g *gateway) account() runtime.Object {
	return &corev1.ServiceAccount{TypeMeta: kind("v1", "ServiceAccount"), ObjectMeta: g.meta(), AutomountServiceAccountToken: ptr.To(false)}
}

// lease is made beforehand: the right to create one cannot be bound to a name.
func (g *gateway) lease() runtime.Object {
	return &coordinationv1.Lease{TypeMeta: kind("coordination.k8s.io/v1", "Lease"), ObjectMeta: g.meta()}
}

func (g *gateway) role() runtime.Object {
	return &rbacv1.Role{TypeMeta: kind("rbac.authorization.k8s.io/v1", "Role"), ObjectMeta: g.meta(), Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{g.name}, Verbs: []string{"get", "update"}}}}
}

func (g *gateway) roleBinding() runtime.Object {
	return &rbacv1.RoleBinding{TypeMeta: kind("rbac.authorization.k8s.io/v1", "RoleBinding"), ObjectMeta: g.meta(),
		RoleRef:  rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: g.name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: g.tunnel.Namespace, Name: g.name}}}
}

// service leads to the active pod: the others are not ready.
func (g *gateway) service() runtime.Object {
	want := g.tunnel.Spec.Gateway.Service
	port := corev1.ServicePort{Name: "wg", Protocol: corev1.ProtocolUDP, Port: want.Port, TargetPort: intstr.FromInt32(ListenPort)}
	if want.NodePort != nil {
		port.NodePort = *want.NodePort
	}
	meta := g.meta()
	meta.Annotations = maps.Clone(want.Annotations)
	return &corev1.Service{TypeMeta: kind("v1", "Service"), ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceType(want.Type), Selector: g.labels(), Ports: []corev1.ServicePort{port}}}
}

// networkPolicy lets in what the gateway serves, and out whatever it wants: outside peers may be anywhere.
func (g *gateway) networkPolicy() runtime.Object {
	port := func(protocol corev1.Protocol, n int32) networkingv1.NetworkPolicyPort {
		return networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: ptr.To(intstr.FromInt32(n))}
	}
	return &networkingv1.NetworkPolicy{TypeMeta: kind("networking.k8s.io/v1", "NetworkPolicy"), ObjectMeta: g.meta(), Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: g.labels()},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: append([]networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolUDP, ListenPort), port(corev1.ProtocolTCP, HealthPort)}}},
			g.egressRule()...),
	}}
}

// disruptionBudget has pods evicted one after another: the active pod alone is ready, so while one takes over there is nobody whom the
// eviction of another could leave. Replicas are never too few for it, as each may be the one that is ready; and where none becomes ready at all, the
// operator has it let all go.
func (g *gateway) disruptionBudget() runtime.Object {
	unready := policyv1.AlwaysAllow
	if s := g.tunnel.Status.Gateway; g.takesOver || s != nil && s.Active != "" {
		unready = policyv1.IfHealthyBudget // those that stand by
	}
	return &policyv1.PodDisruptionBudget{TypeMeta: kind("policy/v1", "PodDisruptionBudget"), ObjectMeta: g.meta(), Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: ptr.To(intstr.FromString("100%")), UnhealthyPodEvictionPolicy: &unready, Selector: &metav1.LabelSelector{MatchLabels: g.labels()}}}
}

func (g *gateway) deployment() runtime.Object {
	return &appsv1.Deployment{TypeMeta: kind("apps/v1", "Deployment"), ObjectMeta: g.meta(), Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To(g.replicas()), Selector: &metav1.LabelSelector{MatchLabels: g.labels()},
		// Who stands by is not ready, and who is new cannot become ready before the active one goes.
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxUnavailable: ptr.To(intstr.FromString("100%")), MaxSurge: ptr.To(intstr.FromInt32(1))}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: g.labels()}, Spec: g.pod()},
	}}
}

func (g *gateway) pod() corev1.PodSpec {
	spec := corev1.PodSpec{
		ServiceAccountName:            g.name,
		AutomountServiceAccountToken:  ptr.To(true),
		EnableServiceLinks:            ptr.To(false),
		TerminationGracePeriodSeconds: ptr.To[int64](30), // it lingers for 20 at most
		SecurityContext:               &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers:                    []corev1.Container{g.container()},
		Volumes: append(volumes(), corev1.Volume{Name: keyVolume, VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: g.secret(), DefaultMode: ptr.To[int32](0o440)}}}, corev1.Volume{Name: presharedVolume, VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: tenant.PresharedKeys(g.tunnel.Name), DefaultMode: ptr.To[int32](0o440), Optional: ptr.To(true)}}}),
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname,
			WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: g.labels()}}},
	}
	if g.User != UnsetUser {
		spec.SecurityContext.FSGroup = ptr.To(g.User) // or else only root could read the key
	}
	if g.apart {
		spec.HostUsers = ptr.To(false)
	}
	return spec
}

// container is a sidecar's in most of it, with the key that all replicas share and the lease that says which of them is active.
func (g *gateway) container() corev1.Container {
	c := candidate{Input: Input{Config: g.Config, Pod: &corev1.Pod{}}, tunnel: g.tunnel, grant: g.grant}
	ct := c.sidecar()
	ct.Name, ct.Image, ct.RestartPolicy, ct.StartupProbe = gatewayContainer, g.GatewayImage, nil, nil
	ct.ReadinessProbe = probe("/readyz", 1, 1)
	if r := g.tunnel.Spec.Gateway.Resources; r != nil {
		ct.Resources = c.withDevice(corev1.ResourceRequirements{Requests: r.Requests.DeepCopy(), Limits: r.Limits.DeepCopy()})
	}
	ct.Args = []string{
		"--coordinator=" + g.CoordinatorURL,
		"--token-file=" + IdentityPath + "/" + TokenKey,
		"--ca-file=" + IdentityPath + "/" + CAKey,
		"--state-dir=" + StatePath,
		"--key-file=" + keyPath + "/" + KeyName,
		"--preshared-keys=" + presharedPath,
		"--lease=" + g.name,
		"--listen-port=" + strconv.Itoa(ListenPort),
		"--health-port=" + strconv.Itoa(HealthPort),
	}
	ct.Args = append(ct.Args, g.datapathArgs()...)
	ct.VolumeMounts = append(ct.VolumeMounts, corev1.VolumeMount{Name: keyVolume, MountPath: keyPath, ReadOnly: true},
		corev1.VolumeMount{Name: presharedVolume, MountPath: presharedPath, ReadOnly: true})
	return ct
}

// gatewayPod lets the tunnel's own pods pass as they are. The label must not be a way around a tunnel that requires membership, so
// the pod has to be nothing but what we planned.
func gatewayPod(c *candidate) finding {
	role, ok := c.Pod.Labels[v1alpha1.LabelRole]
	if !ok {
		return finding{}
	}
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		if t.Name != c.Pod.Labels[v1alpha1.LabelTunnel] || t.Spec.Gateway == nil || role != v1alpha1.LabelRoleGateway {
			continue
		}
		g, refused := c.Config.newGateway(t, Site{Namespace: c.Namespace, UserNamespacesOn: c.UserNamespacesOn})
		if refused != "" {
			return finding{DatapathForbidden, refused}
		}
		if g.is(&c.Pod.Spec) {
			c.tunnel = t
			return finding{GatewayPod, fmt.Sprintf("the pod is a gateway of tunnel %s", t.Name)}
		}
	}
	return finding{LabelConflict, fmt.Sprintf("metadata.labels[%s]: the label marks the gateway pods that the operator makes for a tunnel with spec.gateway, and this is none; remove it",
		v1alpha1.LabelRole)}
}

// is compares all that says what runs and what it can read. Resources may have been changed by other webhooks, and the API server adds
// the account's token. A user namespace takes rights away and gives none.
func (g *gateway) is(spec *corev1.PodSpec) bool {
	if len(spec.Containers) != 1 || len(spec.InitContainers)+len(spec.EphemeralContainers) > 0 || spec.HostNetwork || spec.HostPID || spec.HostIPC {
		return false
	}
	const token = "kube-api-access-"
	plan, have := g.pod(), spec.Containers[0].DeepCopy()
	want := &plan.Containers[0]
	have.VolumeMounts = slices.DeleteFunc(have.VolumeMounts, func(m corev1.VolumeMount) bool {
		return strings.HasPrefix(m.Name, token) && m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount" && m.SubPath == "" && m.SubPathExpr == ""
	})
	have.Resources = want.Resources
	volumes := slices.DeleteFunc(slices.Clone(spec.Volumes), func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, token) && v.Projected != nil })
	return spec.ServiceAccountName == plan.ServiceAccountName && apiequality.Semantic.DeepEqual(have, want) && apiequality.Semantic.DeepEqual(volumes, plan.Volumes)
}
