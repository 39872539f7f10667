package kit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What pods run.
const (
	WorkloadImage = "tenantwire.test/workload:dev" // see test/cluster/cmd/workload
	SidecarImage  = "ghcr.io/tenantwire/sidecar:dev"
	GatewayImage  = "ghcr.io/tenantwire/gateway:dev"
	AppContainer  = "app"
	Sidecar       = "tenantwire"
)

// Container is an ordinary application as Pod Security restricted wants it: workload's arguments, by default "sleep".
func Container(name string, args ...string) corev1.Container {
	if len(args) == 0 {
		args = []string{"sleep"}
	}
	return corev1.Container{
		Name: name, Image: WorkloadImage, ImagePullPolicy: corev1.PullIfNotPresent, Args: args,
		SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
	}
}

// PodSpec is a pod of one application.
func PodSpec(args ...string) corev1.PodSpec {
	return corev1.PodSpec{
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](1000),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers:                    []corev1.Container{Container(AppContainer, args...)},
		TerminationGracePeriodSeconds: ptr.To[int64](10),
	}
}

// Pod is a bare pod, labelled app: NAME.
func Pod(name string, args ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: PodSpec(args...)}
}

// Template is the same for a controller's pods.
func Template(app string, args ...string) corev1.PodTemplateSpec {
	p := Pod(app, args...)
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec}
}

// Deployment of an application, labelled app: NAME.
func Deployment(name string, replicas int32, args ...string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector(name), Template: Template(name, args...),
			// Old pods go one by one, and only once a new one is ready, as for any service that must not pause.
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxUnavailable: ptr.To(intstr.FromInt32(0)), MaxSurge: ptr.To(intstr.FromInt32(1))}}},
	}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

// Declare names the ports that a pod's application listens on, "8080" or "5353/udp", and has it ready when the first TCP port is.
func Declare(spec *corev1.PodSpec, ports ...string) {
	c := &spec.Containers[0]
	for _, s := range ports {
		p := parsePort(s)
		c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: p.Port, Protocol: p.Protocol})
		if p.Protocol == corev1.ProtocolTCP && c.ReadinessProbe == nil {
			c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(p.Port)}}}
		}
	}
}

// Service in front of the pods labelled app: NAME. Ports are "80:8080", "53:5353/udp", or "80" for both.
func Service(name string, ports ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}}}
	for i, text := range ports {
		p := parsePort(text)
		p.Name = fmt.Sprintf("p%d", i)
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	return s
}

// parsePort reads PORT[:TARGET][/PROTOCOL]; the test ends up with nonsense otherwise, and the API server says so.
func parsePort(s string) corev1.ServicePort {
	ports, protocol, _ := strings.Cut(s, "/")
	if protocol == "" {
		protocol = "tcp"
	}
	var port, target int32
	if n, _ := fmt.Sscanf(ports, "%d:%d", &port, &target); n < 2 {
		target = port
	}
	return corev1.ServicePort{Port: port, TargetPort: intstr.FromInt32(target), Protocol: corev1.Protocol(strings.ToUpper(protocol))}
}

// Pods are the namespace's, or those labelled app: APP, that are not being deleted.
func (n *Namespace) Pods(app string) []corev1.Pod {
	n.T.Helper()
	var l corev1.PodList
	options := []client.ListOption{client.InNamespace(n.Name)}
	if app != "" {
		options = append(options, client.MatchingLabels{"app": app})
	}
	if err := n.List(n.T.Context(), &l, options...); err != nil {
		n.T.Fatalf("list pods of %s: %v", n.Name, err)
	}
	return slices.DeleteFunc(l.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// WaitReady waits until pods are ready and returns them; with no name, all of the namespace.
func (n *Namespace) WaitReady(names ...string) []corev1.Pod {
	n.T.Helper()
	var out []corev1.Pod
	Eventually(n.T, Deadline, fmt.Sprintf("pods %v of %s ready", names, n.Name), func() error {
		out = nil
		var errs []error
		for _, p := range n.Pods("") {
			if len(names) > 0 && !slices.Contains(names, p.Name) {
				continue
			}
			out = append(out, p)
			if !IsReady(&p) {
				errs = append(errs, fmt.Errorf("%s: %s", p.Name, Describe(&p)))
			}
		}
		if len(out) < max(len(names), 1) {
			errs = append(errs, fmt.Errorf("%d pods there", len(out)))
		}
		return errors.Join(errs...)
	})
	return out
}

// WaitRollout waits until a Deployment runs what it says, nothing else, and all of it is ready.
func (n *Namespace) WaitRollout(name string) []corev1.Pod {
	n.T.Helper()
	Eventually(n.T, 2*Deadline, fmt.Sprintf("rollout of %s/%s", n.Name, name), func() error {
		var d appsv1.Deployment
		if err := n.Get(n.T.Context(), client.ObjectKey{Namespace: n.Name, Name: name}, &d); err != nil {
			return err
		}
		return rolledOut(&d)
	})
	return n.Pods(name)
}

// Scale sets a Deployment's replicas and waits for the rollout.
func (n *Namespace) Scale(name string, replicas int32) []corev1.Pod {
	n.T.Helper()
	Change(n, name, &appsv1.Deployment{}, func(d *appsv1.Deployment) { d.Spec.Replicas = &replicas })
	return n.WaitRollout(name)
}

// IsReady says whether a pod's containers are all ready.
func IsReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// IsInjected says whether a pod has the sidecar.
func IsInjected(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == Sidecar })
}

// SidecarStatus is the status of a pod's sidecar; nil when the kubelet has said nothing of it.
func SidecarStatus(p *corev1.Pod) *corev1.ContainerStatus {
	for i := range p.Status.InitContainerStatuses {
		if s := &p.Status.InitContainerStatuses[i]; s.Name == Sidecar {
			return s
		}
	}
	return nil
}

// Describe tells of a pod's containers in one line.
func Describe(p *corev1.Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", p.Status.Phase, p.Status.Message)
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		state := "running"
		switch {
		case s.State.Waiting != nil:
			state = "waiting: " + s.State.Waiting.Reason + " " + s.State.Waiting.Message
		case s.State.Terminated != nil:
			state = fmt.Sprintf("ended with %d: %s %s", s.State.Terminated.ExitCode, s.State.Terminated.Reason, s.State.Terminated.Message)
		}
		fmt.Fprintf(&b, "; %s %s, ready %t, %d restarts", s.Name, state, s.Ready, s.RestartCount)
	}
	return b.String()
}
