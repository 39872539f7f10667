package injector

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const domain = "tenantwire.dev/"

var (
	knownAnnotations = []string{v1alpha1.AnnotationCarry, v1alpha1.AnnotationExpose, v1alpha1.AnnotationInject, v1alpha1.AnnotationTrace, v1alpha1.AnnotationTunnel}
	knownLabels      = []string{v1alpha1.LabelViaGateway, v1alpha1.LabelTunnel}
)

// OptedIn says whether a namespace's pods are looked at.
func OptedIn(namespaceLabels map[string]string) bool {
	return namespaceLabels[v1alpha1.LabelInject] == v1alpha1.InjectEnabled
}

func namespaceOptedIn(c *candidate) finding {
	if OptedIn(c.Namespace.Labels) {
		return finding{}
	}
	return finding{NamespaceNotOptedIn, fmt.Sprintf("namespace %s does not have the label %s=%s",
		c.Namespace.Name, v1alpha1.LabelInject, v1alpha1.InjectEnabled)}
}

// knownKeys refuses what looks like ours and means nothing: a mistyped annotation would otherwise be ignored silently.
func knownKeys(c *candidate) finding {
	for _, kind := range []struct {
		name  string
		have  map[string]string
		known []string
	}{
		{"annotation", c.Pod.Annotations, knownAnnotations},
		{"label", c.Pod.Labels, knownLabels},
	} {
		for _, k := range slices.Sorted(maps.Keys(kind.have)) {
			if strings.HasPrefix(k, domain) && !slices.Contains(kind.known, k) {
				return finding{UnknownKey, fmt.Sprintf("metadata.%ss: %s is not known; known annotations are %s, known labels are %s",
					kind.name, k, strings.Join(knownAnnotations, ", "), strings.Join(knownLabels, ", "))}
			}
		}
	}
	return finding{}
}

// optOut looks at the tunnels that the pod would join. Any of them that requires membership keeps the pod from opting out: which
// of several it would be is not decided yet, and leaving must not be easier for an ambiguous pod.
func optOut(c *candidate) finding {
	value, ok := c.Pod.Annotations[v1alpha1.AnnotationInject]
	if !ok || value == "true" {
		return finding{}
	}
	if value != "false" {
		return finding{MalformedAnnotation, fmt.Sprintf(`metadata.annotations[%s]: %q is neither "true" nor "false"`,
			v1alpha1.AnnotationInject, bounded(value))}
	}
	if _, ok := c.Pod.Labels[v1alpha1.LabelTunnel]; ok {
		return finding{LabelConflict, fmt.Sprintf(`metadata.labels[%s]: the label marks members, but the pod opts out with %s: "false"; remove one`,
			v1alpha1.LabelTunnel, v1alpha1.AnnotationInject)}
	}
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		// An unreadable selector counts as a match: what it was meant to require is not known.
		if match, err := selects(t, c.Pod.Labels); t.Spec.Members.Enforcement == v1alpha1.EnforcementRequired && (match || err != nil) {
			return finding{OptOutForbidden, fmt.Sprintf(`metadata.annotations[%s]: "false" is not possible, tunnel %s says enforcement: Required`,
				v1alpha1.AnnotationInject, t.Name)}
		}
	}
	c.warn("the pod opted out and is not part of any tunnel: its traffic is not encrypted")
	return finding{OptedOut, fmt.Sprintf(`the annotation %s: "false" keeps the pod out`, v1alpha1.AnnotationInject)}
}

// selects says whether a tunnel's members include pods with these labels.
func selects(t *v1alpha1.TenantTunnel, podLabels map[string]string) (bool, error) {
	if t.Spec.Members.Selector == nil {
		return true, nil
	}
	s, err := metav1.LabelSelectorAsSelector(t.Spec.Members.Selector)
	if err != nil {
		return false, fmt.Errorf("parse spec.members.selector of tunnel %s: %w", t.Name, err)
	}
	return s.Matches(labels.Set(podLabels)), nil
}

func chooseTunnel(c *candidate) finding {
	if len(c.Tunnels) == 0 {
		return finding{NoTunnel, fmt.Sprintf("namespace %s is opted in but has no TenantTunnel: create one, or remove the label %s from the namespace",
			c.Namespace.Name, v1alpha1.LabelInject)}
	}
	if name, ok := c.Pod.Annotations[v1alpha1.AnnotationTunnel]; ok {
		return c.chooseNamed(name)
	}
	var live, deleting []*v1alpha1.TenantTunnel
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		match, err := selects(t, c.Pod.Labels)
		if err != nil {
			return finding{TunnelNotAccepted, err.Error()}
		}
		switch {
		case match && t.DeletionTimestamp.IsZero():
			live = append(live, t)
		case match:
			deleting = append(deleting, t)
		}
	}
	// A tunnel that is going away does not stand in the way of the one that replaces it.
	matches := live
	if len(live) == 0 {
		matches = deleting
	}
	switch len(matches) {
	case 0:
		return c.notSelected()
	case 1:
		c.tunnel = matches[0]
		return finding{}
	}
	return finding{AmbiguousTunnel, fmt.Sprintf("several tunnels select the pod: add the annotation %s with one of %s",
		v1alpha1.AnnotationTunnel, tunnelNames(matches))}
}

func (c *candidate) chooseNamed(name string) finding {
	all := make([]*v1alpha1.TenantTunnel, len(c.Tunnels))
	for i := range c.Tunnels {
		all[i] = &c.Tunnels[i]
	}
	i := slices.IndexFunc(all, func(t *v1alpha1.TenantTunnel) bool { return t.Name == name })
	if i < 0 {
		return finding{UnknownTunnel, fmt.Sprintf("metadata.annotations[%s]: namespace %s has no tunnel %q, but %s",
			v1alpha1.AnnotationTunnel, c.Namespace.Name, bounded(name), tunnelNames(all))}
	}
	match, err := selects(all[i], c.Pod.Labels)
	if err != nil {
		return finding{TunnelNotAccepted, err.Error()}
	}
	if !match {
		return finding{TunnelSelectsNotPod, fmt.Sprintf("metadata.annotations[%s]: spec.members.selector of tunnel %s does not match the pod's labels; change one of them",
			v1alpha1.AnnotationTunnel, name)}
	}
	c.tunnel = all[i]
	return finding{}
}

// notSelected leaves a pod alone, unless it claims to be a member.
func (c *candidate) notSelected() finding {
	if v, ok := c.Pod.Labels[v1alpha1.LabelTunnel]; ok {
		return finding{LabelConflict, fmt.Sprintf("metadata.labels[%s]: %q marks members, but no tunnel selects the pod; remove the label",
			v1alpha1.LabelTunnel, bounded(v))}
	}
	return finding{NotSelected, "no tunnel's spec.members.selector matches the pod's labels"}
}

func tunnelNames(tunnels []*v1alpha1.TenantTunnel) string {
	names := make([]string, len(tunnels))
	for i, t := range tunnels {
		names[i] = t.Name
	}
	slices.Sort(names)
	return list(names)
}

func tunnelLives(c *candidate) finding {
	if c.tunnel.DeletionTimestamp.IsZero() {
		return finding{}
	}
	return finding{TunnelDeleting, fmt.Sprintf("tunnel %s is being deleted: create another one, or remove the label %s from namespace %s",
		c.tunnel.Name, v1alpha1.LabelInject, c.Namespace.Name)}
}

// tunnelAccepted heeds a verdict on the tunnel as it is now. One on an earlier generation says nothing of what was changed since;
// the sidecar keeps the pod from starting until the tunnel works.
func tunnelAccepted(c *candidate) finding {
	cond := meta.FindStatusCondition(c.tunnel.Status.Conditions, v1alpha1.ConditionAccepted)
	if cond == nil || cond.Status != metav1.ConditionFalse || cond.ObservedGeneration < c.tunnel.Generation {
		return finding{}
	}
	return finding{TunnelNotAccepted, fmt.Sprintf("tunnel %s is not accepted (%s): %s", c.tunnel.Name, cond.Reason, cond.Message)}
}

func labelAgrees(c *candidate) finding {
	if v, ok := c.Pod.Labels[v1alpha1.LabelTunnel]; ok && v != c.tunnel.Name {
		return finding{LabelConflict, fmt.Sprintf("metadata.labels[%s]: %q is set, but the pod's tunnel is %s; remove the label (the annotation %s chooses a tunnel)",
			v1alpha1.LabelTunnel, bounded(v), c.tunnel.Name, v1alpha1.AnnotationTunnel)}
	}
	return finding{}
}

// bounded keeps a hostile value from filling a message.
func bounded(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// list joins names for a message, the first 16 of them.
func list(names []string) string {
	const most = 16
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
