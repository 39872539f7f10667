package injector

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Linux keeps ports below 1024 from users other than root unless this sysctl says less. It is on Kubernetes' list of safe ones.
const (
	lowPortSysctl = "net.ipv4.ip_unprivileged_port_start"
	lowPorts      = 1024
)

// ownPorts are what the sidecar itself listens on, on every address of the pod.
var ownPorts = []v1alpha1.Port{{Port: ListenPort, Protocol: v1alpha1.UDP}, {Port: HealthPort, Protocol: v1alpha1.TCP}}

// portsFree refuses a pod in which application and sidecar would need the same port. The application listens on every address of
// the pod and the sidecar on one loopback address per name: Linux gives a port to one of them only, and the sidecar starts first.
// Behind its own Service the pod answers itself: the sidecar leaves those ports alone. The application's ports are those that the pod
// declares, and those that its own Services lead to.
func portsFree(c *candidate) finding {
	application, err := tenant.PodPorts(c.Pod)
	if err != nil {
		return finding{MalformedAnnotation, fmt.Sprintf("metadata.annotations[%s]: %v", v1alpha1.AnnotationExpose, err)}
	}
	for _, n := range c.names {
		application = append(application, n.targets...)
	}
	for _, n := range c.names {
		for _, p := range n.ports {
			switch {
			case slices.Contains(ownPorts, p):
				return finding{ReservedPort, fmt.Sprintf("%s has port %s, which the sidecar listens on itself; %s", n.Name, portName(p), leaveOut(n))}
			case !slices.Contains(application, p):
			case n.own:
				c.warn("the pod is behind Service %s: inside the pod, %s:%d leads to itself", n.Name, n.Name, p.Port)
				if !slices.Contains(c.held, p) {
					c.held = append(c.held, p)
				}
			default:
				return finding{PortConflict, fmt.Sprintf(
					"the pod listens on %s and carries %s, which has the same port: the sidecar has to listen on it for that name; give the Service or the container another port (for example port: 80 with targetPort: %d), or %s",
					portName(p), n.Name, p.Port, leaveOut(n))}
			}
		}
	}
	for _, proxy := range c.tunnel.Spec.Proxies {
		if p := (v1alpha1.Port{Port: proxy.Port, Protocol: v1alpha1.TCP}); slices.Contains(application, p) || slices.Contains(ownPorts, p) {
			return finding{PortConflict, fmt.Sprintf("spec.proxies of tunnel %s opens %s on %s, which is in use in the pod; choose another port for one of them",
				c.tunnel.Name, proxy.Protocol, portName(p))}
		}
	}
	return finding{}
}

func portName(p v1alpha1.Port) string { return fmt.Sprintf("%d/%s", p.Port, p.Protocol) }

func leaveOut(n Name) string {
	return fmt.Sprintf("leave %s out by listing only the names that the pod needs in the annotation %s", n.Name, v1alpha1.AnnotationCarry)
}

// reservedPorts refuses a pod that wants the sidecar's own ports, or whose probes would ask the sidecar.
func reservedPorts(c *candidate) finding {
	const message = "%s: %s is the sidecar's; use another port"
	listed, _ := tenant.ParseExpose(c.Pod.Annotations[v1alpha1.AnnotationExpose]) // portsFree refused what does not parse
	for _, p := range listed {
		if slices.Contains(ownPorts, p) {
			return finding{ReservedPort, fmt.Sprintf(message, "metadata.annotations["+v1alpha1.AnnotationExpose+"]", portName(p))}
		}
	}
	return c.containers(func(path string, ct *corev1.Container) finding {
		for i, p := range ct.Ports {
			port := v1alpha1.Port{Port: p.ContainerPort, Protocol: v1alpha1.TCP}
			if p.Protocol != "" {
				port.Protocol = v1alpha1.Protocol(p.Protocol)
			}
			if slices.Contains(ownPorts, port) {
				return finding{ReservedPort, fmt.Sprintf(message, fmt.Sprintf("%s.ports[%d]", path, i), portName(port))}
			}
		}
		for _, p := range probes(ct) {
			if p.port == intstr.FromInt32(HealthPort) {
				return finding{ReservedPort, fmt.Sprintf(message, path+"."+p.field, portName(ownPorts[1]))}
			}
		}
		return finding{}
	})
}

type probePort struct {
	field string
	port  intstr.IntOrString
}

func probes(ct *corev1.Container) []probePort {
	var out []probePort
	for _, p := range []struct {
		field string
		probe *corev1.Probe
	}{
		{"startupProbe", ct.StartupProbe}, {"readinessProbe", ct.ReadinessProbe}, {"livenessProbe", ct.LivenessProbe},
	} {
		switch {
		case p.probe == nil:
		case p.probe.HTTPGet != nil:
			out = append(out, probePort{p.field + ".httpGet.port", p.probe.HTTPGet.Port})
		case p.probe.TCPSocket != nil:
			out = append(out, probePort{p.field + ".tcpSocket.port", p.probe.TCPSocket.Port})
		}
	}
	return out
}

// lowPortsAllowed finds out whether the sidecar has to listen on a port below 1024, and heeds the pod's own sysctl. A Service that
// does not exist yet may have any port.
func lowPortsAllowed(c *candidate) finding {
	lowest := int32(lowPorts)
	var who string
	for _, n := range c.names {
		if !n.known {
			lowest, who = 0, n.Name
		}
		for _, p := range n.ports {
			if p.Port < lowest {
				lowest, who = p.Port, n.Name
			}
		}
	}
	if c.lowPort = lowest < lowPorts; !c.lowPort || c.Pod.Spec.SecurityContext == nil {
		return finding{}
	}
	for i, s := range c.Pod.Spec.SecurityContext.Sysctls {
		if s.Name != lowPortSysctl {
			continue
		}
		start, err := strconv.ParseInt(strings.TrimSpace(s.Value), 10, 32)
		if err != nil || int32(start) > max(lowest, 1) {
			return finding{SysctlConflict, fmt.Sprintf("spec.securityContext.sysctls[%d]: %s=%s keeps the sidecar from listening for %s; use 0, or leave %s out with the annotation %s",
				i, lowPortSysctl, bounded(s.Value), who, who, v1alpha1.AnnotationCarry)}
		}
		return finding{}
	}
	return finding{}
}
