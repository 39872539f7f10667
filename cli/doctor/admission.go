package doctor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const enforceLabel = "pod-security.kubernetes.io/enforce"

var admissionChecks = []Check{
	{"NamespaceNotOptedIn", Warning, "a namespace with a tunnel is opted in", []source{srcNamespaces, srcTunnels}, namespaceNotOptedIn},
	{"NamespaceWithoutTunnel", Error, "a namespace that is opted in has a tunnel", []source{srcNamespaces, srcTunnels}, namespaceWithoutTunnel},
	{"DatapathForbidden", Error, "the namespace's Pod Security level allows what the tunnel's datapath takes", []source{srcNamespaces, srcTunnels}, datapathForbidden},
	{"PodNotInjected", Warning, "pods that would join a tunnel have", []source{srcNamespaces, srcTunnels, srcPods, srcServices}, podNotInjected},
	{"PodRefused", Warning, "pods that run would be admitted again", []source{srcNamespaces, srcTunnels, srcPods, srcServices}, podRefused},
	{"PodWithoutMember", Error, "pods with a sidecar are members", []source{srcMembers, srcPods}, podWithoutMember},
	{"SidecarFailing", Error, "sidecars run", []source{srcPods}, sidecarFailing},
	{"NameNotCarried", Warning, "pods carry all names of their tunnel", []source{srcTunnels, srcPods}, nameNotCarried},
}

func namespaceNotOptedIn(f *Facts) (out []Finding) {
	for _, ns := range f.spaces() {
		if n := f.namespace(ns); n != nil && !injector.OptedIn(n.Labels) {
			out = append(out, Finding{Object: "namespace " + ns, What: "the namespace has a tunnel, and its new pods do not join it",
				Evidence: "the label " + v1alpha1.LabelInject + "=" + v1alpha1.InjectEnabled + " is missing", Fix: fmt.Sprintf("kubectl label namespace %s %s=%s", ns, v1alpha1.LabelInject, v1alpha1.InjectEnabled)})
		}
	}
	return out
}

func namespaceWithoutTunnel(f *Facts) (out []Finding) {
	for _, ns := range f.spaces() {
		if len(f.tunnelsIn(ns)) == 0 {
			out = append(out, Finding{Object: "namespace " + ns, What: "the namespace is opted in and has no tunnel: pods cannot be created there",
				Evidence: "it has the label " + v1alpha1.LabelInject + "=" + v1alpha1.InjectEnabled + " and no TenantTunnel",
				Fix:      fmt.Sprintf("kubectl label namespace %s %s-, or make a TenantTunnel", ns, v1alpha1.LabelInject)})
		}
	}
	return out
}

func datapathForbidden(f *Facts) (out []Finding) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		n := f.namespace(t.Namespace)
		if n == nil || t.Spec.Datapath != v1alpha1.DatapathKernel && t.Spec.Datapath != v1alpha1.DatapathTUN {
			continue
		}
		if level := n.Labels[enforceLabel]; level == "baseline" || level == "restricted" {
			out = append(out, Finding{Object: tunnelName(t), What: "pods of the tunnel are refused: its datapath takes NET_ADMIN, which the namespace forbids",
				Evidence: fmt.Sprintf("spec.datapath is %s, and the namespace enforces Pod Security %s", t.Spec.Datapath, level),
				Fix:      fmt.Sprintf(`kubectl -n %s patch tt %s --type=merge -p '{"spec":{"datapath":"Auto"}}'`, t.Namespace, t.Name)})
		}
	}
	return out
}

// decided is what the webhook would make of a pod that runs, were it created now.
func (f *Facts) decided(p *corev1.Pod) (injector.Decision, bool) {
	n := f.namespace(p.Namespace)
	if n == nil || !injector.OptedIn(n.Labels) || !alive(p) || isGatewayPod(p) || sidecarOf(p) != nil {
		return injector.Decision{}, false
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return injector.Decision{}, false
	}
	config := injector.DefaultConfig()
	config.Image, config.CoordinatorURL = "sidecar", "https://coordinator"
	in := injector.Input{Raw: raw, Pod: p, Namespace: n, Tunnels: f.tunnelsIn(p.Namespace), Config: &config}
	for i := range f.Services {
		if f.Services[i].Namespace == p.Namespace {
			in.Services = append(in.Services, f.Services[i])
		}
	}
	return injector.Decide(in), true
}

func owner(p *corev1.Pod) string {
	for _, o := range p.OwnerReferences {
		if o.Controller != nil && *o.Controller {
			return o.Kind + " " + o.Name
		}
	}
	return ""
}

func podNotInjected(f *Facts) (out []Finding) {
	for i := range f.Pods {
		p := &f.Pods[i]
		d, asked := f.decided(p)
		if !asked || d.Reason != injector.Injected {
			continue
		}
		fix := fmt.Sprintf("kubectl -n %s delete pod %s, and create it again", p.Namespace, p.Name)
		if owner(p) != "" {
			fix = fmt.Sprintf("kubectl -n %s delete pod %s", p.Namespace, p.Name)
		}
		out = append(out, Finding{Object: podName(p), What: fmt.Sprintf("the pod has no sidecar, and would join tunnel %s if it were created now: it sends in plaintext", d.Tunnel),
			Evidence: "it was created before the namespace was opted in, or before the tunnel", Fix: fix})
	}
	return out
}

func podRefused(f *Facts) (out []Finding) {
	for i := range f.Pods {
		p := &f.Pods[i]
		d, asked := f.decided(p)
		if !asked || d.Outcome != injector.Deny || len(f.tunnelsIn(p.Namespace)) == 0 {
			continue
		}
		out = append(out, Finding{Object: podName(p), What: "the pod runs, and would be refused if it were created now", Evidence: fmt.Sprintf("%s: %s", d.Reason, d.Message),
			Fix: "change what the message says; kubectl tenantwire inject says what becomes of it"})
	}
	return out
}

func podWithoutMember(f *Facts) (out []Finding) {
	for i := range f.Pods {
		p := &f.Pods[i]
		if sidecarOf(p) == nil || !alive(p) || f.Now.Sub(p.CreationTimestamp.Time) < aMoment {
			continue
		}
		if m := f.member(p.Namespace, p.Name); m != nil && m.Spec.PodUID == string(p.UID) {
			continue
		}
		out = append(out, Finding{Object: podName(p), What: "the pod has a sidecar and is no member: it does not start", Evidence: "there is no TunnelMember for it",
			Fix: fmt.Sprintf("kubectl -n %s describe tt %s", p.Namespace, p.Labels[v1alpha1.LabelTunnel])})
	}
	return out
}

func sidecarFailing(f *Facts) (out []Finding) {
	for i := range f.Pods {
		p := &f.Pods[i]
		if sidecarOf(p) == nil || !alive(p) {
			continue
		}
		for _, s := range p.Status.InitContainerStatuses {
			if s.Name != injector.ContainerName {
				continue
			}
			why := ""
			switch {
			case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing" && s.State.Waiting.Reason != "ContainerCreating":
				why = s.State.Waiting.Reason + " " + s.State.Waiting.Message
			case s.State.Terminated != nil:
				why = fmt.Sprintf("it ended with %d: %s %s", s.State.Terminated.ExitCode, s.State.Terminated.Reason, s.State.Terminated.Message)
			}
			if why != "" {
				out = append(out, Finding{Object: podName(p), What: fmt.Sprintf("the pod's sidecar does not run; it was started again %d times", s.RestartCount), Evidence: why,
					Fix: fmt.Sprintf("kubectl -n %s logs %s -c %s --previous", p.Namespace, p.Name, injector.ContainerName)})
			}
		}
	}
	return out
}

// carried are the names that a pod's sidecar listens for.
func carried(p *corev1.Pod) (names []string) {
	for _, a := range sidecarOf(p).Args {
		if v, ok := strings.CutPrefix(a, "--name="); ok {
			name, _, _ := strings.Cut(v, "=")
			names = append(names, name)
		}
	}
	return names
}

// uncarried are the names of a tunnel that a pod has not. One that chose its names has those that it chose.
func uncarried(p *corev1.Pod, t *v1alpha1.TenantTunnel) (names []string) {
	if _, chose := p.Annotations[v1alpha1.AnnotationCarry]; chose {
		return nil
	}
	has := carried(p)
	for _, e := range t.Spec.Expose {
		if !slices.Contains(has, e.Service) {
			names = append(names, e.Service)
		}
	}
	for _, e := range t.Spec.Egress {
		if !slices.Contains(has, e.Host) {
			names = append(names, e.Host)
		}
	}
	return names
}

func nameNotCarried(f *Facts) (out []Finding) {
	for i := range f.Pods {
		p := &f.Pods[i]
		t := f.tunnel(p.Namespace, p.Labels[v1alpha1.LabelTunnel])
		if t == nil || isGatewayPod(p) || sidecarOf(p) == nil || !alive(p) {
			continue
		}
		if names := uncarried(p, t); len(names) > 0 {
			out = append(out, Finding{Object: podName(p), What: "the pod does not carry " + few(names) + ": it was created before that was in its tunnel",
				Evidence: "its sidecar was given no --name for it", Fix: restartOf(p)})
		}
	}
	return out
}

// restartOf makes a pod anew.
func restartOf(p *corev1.Pod) string {
	kind, name, _ := strings.Cut(owner(p), " ")
	switch kind {
	case "ReplicaSet":
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			return fmt.Sprintf("kubectl -n %s rollout restart deployment/%s", p.Namespace, name[:i])
		}
	case "StatefulSet", "DaemonSet":
		return fmt.Sprintf("kubectl -n %s rollout restart %s/%s", p.Namespace, strings.ToLower(kind), name)
	case "":
		return fmt.Sprintf("kubectl -n %s delete pod %s, and create it again", p.Namespace, p.Name)
	}
	return fmt.Sprintf("kubectl -n %s delete pod %s", p.Namespace, p.Name)
}

func podName(p *corev1.Pod) string { return "pod " + p.Namespace + "/" + p.Name }
