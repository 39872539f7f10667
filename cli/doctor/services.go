package doctor

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

var serviceChecks = []Check{
	{"ServiceMissing", Warning, "Services that a tunnel exposes are there", []source{srcTunnels, srcServices}, eachExposed(func(f *Facts, t *v1alpha1.TenantTunnel, name string, s *corev1.Service) *Finding {
		if s != nil {
			return nil
		}
		return &Finding{What: "the tunnel exposes a Service that does not exist: its name is refused", Evidence: "spec.expose of tunnel " + t.Name + " names it",
			Fix: fmt.Sprintf("kubectl -n %s expose deployment %s, or take it out of spec.expose", t.Namespace, name)}
	})},
	{"ServiceWithoutSelector", Warning, "they select pods", []source{srcTunnels, srcServices}, eachExposed(func(_ *Facts, t *v1alpha1.TenantTunnel, name string, s *corev1.Service) *Finding {
		if s == nil || len(s.Spec.Selector) > 0 {
			return nil
		}
		return &Finding{What: "the Service selects no pods: it leads only where somebody writes EndpointSlices that name members", Evidence: "spec.selector is empty",
			Fix: fmt.Sprintf(`kubectl -n %s patch service %s --type=merge -p '{"spec":{"selector":{"app":"%s"}}}'`, t.Namespace, name, name)}
	})},
	{"ServiceNotReady", Error, "a ready pod is behind them", []source{srcTunnels, srcServices, srcSlices}, eachExposed(serviceNotReady)},
	{"ServiceWithoutMembers", Error, "a ready member is, or a pod that the gateway may reach", []source{srcTunnels, srcServices, srcSlices, srcPods}, eachExposed(serviceWithoutMembers)},
	{"TargetPortMissing", Error, "pods have the ports that they lead to by name", []source{srcTunnels, srcServices, srcSlices, srcPods}, eachExposed(targetPortMissing)},
}

// eachExposed asks of each exposed Service; s is nil where there is none.
func eachExposed(wrong func(f *Facts, t *v1alpha1.TenantTunnel, name string, s *corev1.Service) *Finding) func(*Facts) []Finding {
	return func(f *Facts) (out []Finding) {
		for i := range f.Tunnels {
			t := &f.Tunnels[i]
			for _, e := range t.Spec.Expose {
				if found := wrong(f, t, e.Service, f.service(t.Namespace, e.Service)); found != nil {
					found.Object = "service " + t.Namespace + "/" + e.Service
					out = append(out, *found)
				}
			}
		}
		return out
	}
}

func serviceNotReady(f *Facts, t *v1alpha1.TenantTunnel, name string, s *corev1.Service) *Finding {
	if s == nil || len(readyBehind(f.Slices, t.Namespace, name)) > 0 {
		return nil
	}
	return &Finding{What: "no ready pod is behind the Service: connections by its name are refused", Evidence: "no EndpointSlice of it has a ready endpoint",
		Fix: fmt.Sprintf("kubectl -n %s get pods -l %s", t.Namespace, selectorText(s.Spec.Selector))}
}

func selectorText(selector map[string]string) string {
	var all []string
	for k, v := range selector {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	out := ""
	for i, s := range all {
		if i > 0 {
			out += ","
		}
		out += s
	}
	return out
}

// podsBehind are those that ready endpoints name.
func (f *Facts) podsBehind(namespace, service string) (out []*corev1.Pod) {
	for _, e := range readyBehind(f.Slices, namespace, service) {
		if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
			continue
		}
		if p := f.pod(namespace, e.TargetRef.Name); p != nil {
			out = append(out, p)
		}
	}
	return out
}

func serviceWithoutMembers(f *Facts, t *v1alpha1.TenantTunnel, name string, s *corev1.Service) *Finding {
	if s == nil || len(readyBehind(f.Slices, t.Namespace, name)) == 0 {
		return nil
	}
	for _, p := range f.podsBehind(t.Namespace, name) {
		member := sidecarOf(p) != nil && p.Labels[v1alpha1.LabelTunnel] == t.Name
		if member || t.Spec.Gateway != nil && p.Labels[v1alpha1.LabelViaGateway] == v1alpha1.ViaGatewayEnabled {
			return nil
		}
	}
	return &Finding{What: "pods are behind the Service, but none of them is a member of the tunnel: connections by its name are refused", Evidence: "none has the sidecar of tunnel " + t.Name,
		Fix: fmt.Sprintf("kubectl -n %s delete pods -l %s, so that they are created with a sidecar", t.Namespace, selectorText(s.Spec.Selector))}
}

func targetPortMissing(f *Facts, t *v1alpha1.TenantTunnel, name string, s *corev1.Service) *Finding {
	if s == nil {
		return nil
	}
	for _, port := range s.Spec.Ports {
		if port.TargetPort.Type != intstr.String || slicesHavePort(f.Slices, t.Namespace, name, port.Name) {
			continue
		}
		for i := range f.Pods {
			p := &f.Pods[i]
			if p.Namespace != t.Namespace || len(s.Spec.Selector) == 0 || !matches(s.Spec.Selector, p.Labels) || declares(p, port.TargetPort.StrVal) {
				continue
			}
			return &Finding{What: fmt.Sprintf("port %d of the Service leads to a port that its pods do not have", port.Port), Evidence: fmt.Sprintf("no container of pod %s has a port of the name %q", p.Name, port.TargetPort.StrVal),
				Fix: fmt.Sprintf("kubectl -n %s edit service %s, or declare the port in the pods", t.Namespace, name)}
		}
	}
	return nil
}

func slicesHavePort(all []discoveryv1.EndpointSlice, namespace, service, port string) bool {
	return slices.ContainsFunc(all, func(s discoveryv1.EndpointSlice) bool {
		return s.Namespace == namespace && s.Labels[discoveryv1.LabelServiceName] == service && slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Name != nil && *p.Name == port && p.Port != nil
		})
	})
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func declares(p *corev1.Pod, name string) bool {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.Name == name }) {
			return true
		}
	}
	return false
}
