package tenant

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// SidecarName is the name of the injected container.
const SidecarName = "tenantwire"

// MaxPorts bounds the ports of one member; the schema of TunnelMember says the same.
const MaxPorts = 256

// ParseExpose reads the annotation tenantwire.dev/expose: ports with an optional protocol, separated by commas, for example
// "8080, 53/udp". The empty string lists none. The result is sorted and free of duplicates.
func ParseExpose(value string) ([]v1alpha1.Port, error) {
	if strings.TrimSpace(value) == "" {
		return nil, nil
	}
	var ports []v1alpha1.Port
	for element := range strings.SplitSeq(value, ",") {
		p, err := parsePort(strings.TrimSpace(element))
		if err != nil {
			return nil, fmt.Errorf("parse annotation %s: %w", v1alpha1.AnnotationExpose, err)
		}
		ports = append(ports, p)
	}
	if ports = sortPorts(ports); len(ports) > MaxPorts {
		return nil, fmt.Errorf("parse annotation %s: %d ports, at most %d are possible", v1alpha1.AnnotationExpose, len(ports), MaxPorts)
	}
	return ports, nil
}

func parsePort(s string) (v1alpha1.Port, error) {
	number, protocol, named := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	p := v1alpha1.Port{Port: int32(n), Protocol: v1alpha1.TCP}
	if named {
		p.Protocol = v1alpha1.Protocol(strings.ToUpper(protocol))
	}
	if err != nil || n == 0 || number[0] == '0' || p.Protocol != v1alpha1.TCP && p.Protocol != v1alpha1.UDP {
		return p, fmt.Errorf("element %q is not a port 1..65535 with an optional /tcp or /udp, for example \"8080, 53/udp\"", bounded(s))
	}
	return p, nil
}

// bounded keeps a hostile value from filling a message.
func bounded(s string) string { return bound(s, 64) }

// PodPorts are the ports that a pod's tunnel addresses accept: those its containers and native sidecars declare (TCP and UDP) and
// those it lists by annotation; sorted, free of duplicates, at most MaxPorts. On an error the result is what could be read, so
// that a pod that is running already keeps its declared ports.
func PodPorts(pod *corev1.Pod) ([]v1alpha1.Port, error) {
	var ports []v1alpha1.Port
	declare := func(c *corev1.Container) {
		if c.Name == SidecarName {
			return
		}
		for _, p := range c.Ports {
			if protocol, ok := protocolOf(p.Protocol); ok && p.ContainerPort >= 1 && p.ContainerPort <= 65535 {
				ports = append(ports, v1alpha1.Port{Port: p.ContainerPort, Protocol: protocol})
			}
		}
	}
	for i := range pod.Spec.Containers {
		declare(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			declare(c)
		}
	}
	listed, err := ParseExpose(pod.Annotations[v1alpha1.AnnotationExpose])
	ports = sortPorts(append(ports, listed...))
	if err == nil && len(ports) > MaxPorts {
		err = fmt.Errorf("collect the pod's ports: %d declared or listed, at most %d are possible", len(ports), MaxPorts)
	}
	return ports[:min(len(ports), MaxPorts)], err
}

// protocolOf is the protocol as a tunnel knows it, and whether it carries it at all.
func protocolOf(p corev1.Protocol) (v1alpha1.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return v1alpha1.TCP, true
	case corev1.ProtocolUDP:
		return v1alpha1.UDP, true
	}
	return "", false
}

func sortPorts(ports []v1alpha1.Port) []v1alpha1.Port {
	slices.SortFunc(ports, func(a, b v1alpha1.Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return slices.Compact(ports)
}
