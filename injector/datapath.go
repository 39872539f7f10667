package injector

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// PodSecurityLevel is a level of the Pod Security Standards.
type PodSecurityLevel string

// The levels.
const (
	Privileged PodSecurityLevel = "privileged"
	Baseline   PodSecurityLevel = "baseline"
	Restricted PodSecurityLevel = "restricted"
)

// enforceLabel is the namespace's label that Pod Security admission acts on.
const enforceLabel = "pod-security.kubernetes.io/enforce"

// netAdmin is what the datapaths with a real interface need. Of the levels only privileged allows it, with or without a user
// namespace.
const netAdmin corev1.Capability = "NET_ADMIN"

// grant is what the sidecar is told of its datapath and given for it.
type grant struct {
	choice   v1alpha1.DatapathChoice
	why      string // why it is not the tunnel's choice; empty: it is
	netAdmin bool
	tun      bool // Config.TUNResource
}

func (g grant) String() string {
	s := "datapath " + string(g.choice)
	if g.netAdmin {
		s += " with NET_ADMIN"
	}
	if g.tun {
		s += " and the TUN device"
	}
	return s
}

// datapathAllowed grants what the tunnel's datapath takes where the namespace's Pod Security level allows it. Elsewhere Auto becomes
// Netstack, and what was asked for by name is refused: never is it replaced by another.
func datapathAllowed(c *candidate) finding {
	choice := cmp.Or(c.tunnel.Spec.Datapath, v1alpha1.DatapathAuto)
	level, says := podSecurity(c.Namespace, c.Config.PodSecurityDefault)
	switch {
	case choice == v1alpha1.DatapathNetstack:
		c.grant = grant{choice: choice}
	case level == Privileged:
		c.grant = grant{choice: choice, netAdmin: true, tun: c.wantsTUN(choice)}
	case choice == v1alpha1.DatapathAuto:
		c.grant = grant{choice: v1alpha1.DatapathNetstack, why: fmt.Sprintf("Auto: Netstack; %s, which forbids NET_ADMIN", says)}
		c.warn("datapath %s", c.grant.why)
	default:
		return finding{DatapathForbidden, fmt.Sprintf(
			"tunnel %s says spec.datapath: %s, which needs NET_ADMIN, but %s, which forbids it: have the namespace labelled %s=%s, or set spec.datapath to Auto or Netstack",
			c.tunnel.Name, choice, says, enforceLabel, Privileged)}
	}
	return finding{}
}

// podSecurity is the level that a namespace enforces, and a sentence that says so. Like Pod Security admission it takes what it does
// not know for the strictest.
func podSecurity(ns *corev1.Namespace, byDefault PodSecurityLevel) (PodSecurityLevel, string) {
	value, ok := ns.Labels[enforceLabel]
	if !ok {
		return byDefault, fmt.Sprintf("namespace %s enforces the cluster's default Pod Security level, %s", ns.Name, byDefault)
	}
	level := PodSecurityLevel(value)
	if level != Privileged && level != Baseline {
		level = Restricted
	}
	return level, fmt.Sprintf("namespace %s enforces Pod Security level %s", ns.Name, level)
}

// wantsTUN says whether the sidecar asks for the TUN device. Asking binds the pod to nodes that offer it: whoever says TUN wants
// that, Auto wants it only where the operator was told that no pod is left without a node by it.
func (c *candidate) wantsTUN(choice v1alpha1.DatapathChoice) bool {
	if c.Config.TUNResource == "" && choice == v1alpha1.DatapathTUN {
		c.warn("tunnel %s says spec.datapath: TUN, but the operator knows no resource that brings /dev/net/tun (--tun-resource): where the node does not bring it by itself, the pod will not start", c.tunnel.Name)
	}
	return c.Config.bringsTUN(choice)
}

func (c *Config) bringsTUN(choice v1alpha1.DatapathChoice) bool {
	return c.TUNResource != "" && (choice == v1alpha1.DatapathTUN || choice == v1alpha1.DatapathAuto && c.TUNForAuto)
}

// UserNamespaces says which pods get one.
type UserNamespaces string

// The choices.
const (
	UserNamespacesAuto   UserNamespaces = "Auto"   // where every node has them
	UserNamespacesAlways UserNamespaces = "Always" // whatever the nodes say
	UserNamespacesNever  UserNamespaces = "Never"
)

// UserNamespacesOn says whether a pod can have a user namespace on whichever of the nodes it comes to: their runtime offers it, and
// their kernel can mount a pod's volumes in memory for it (Linux 6.3).
func UserNamespacesOn(nodes []corev1.Node) bool {
	some := false
	for i := range nodes {
		n := &nodes[i]
		if n.Labels[corev1.LabelOSStable] == string(corev1.Windows) {
			continue
		}
		some = true
		var major, minor int
		if _, err := fmt.Sscanf(n.Status.NodeInfo.KernelVersion, "%d.%d", &major, &minor); err != nil || major < 6 || major == 6 && minor < 3 {
			return false
		}
		if !slices.ContainsFunc(n.Status.RuntimeHandlers, func(h corev1.NodeRuntimeHandler) bool {
			return h.Name == "" && h.Features != nil && ptr.Deref(h.Features.UserNamespaces, false)
		}) {
			return false
		}
	}
	return some
}

// maxMappedID is the last user or group that a pod's user namespace has.
const maxMappedID = 65535

// userNamespace says whether the pod gets a user namespace of its own, in which NET_ADMIN is one over the pod alone. It is the whole
// pod's, so it is not forced on any that says something about it, nor on one that might notice: by the files of volumes that the
// kubelet does not make itself (not every file system can be mounted with other owners, and such a pod would not start), by devices,
// by capabilities of its own, by namespaces shared with the node, by users beyond those that are mapped.
func (c *candidate) userNamespace() bool {
	spec := &c.Pod.Spec
	can := c.Config.UserNamespaces == UserNamespacesAlways || c.Config.UserNamespaces == UserNamespacesAuto && c.UserNamespacesOn
	if !c.grant.netAdmin || !can || spec.HostUsers != nil || spec.HostPID || spec.HostIPC ||
		spec.RuntimeClassName != nil || len(spec.ResourceClaims) > 0 || c.Config.User > maxMappedID || !podMapped(spec.SecurityContext) ||
		slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return !madeByKubelet(&v) }) {
		return false
	}
	unnoticed := true
	c.containers(func(_ string, ct *corev1.Container) finding {
		unnoticed = unnoticed && indifferent(ct)
		return finding{}
	})
	return unnoticed
}

func madeByKubelet(v *corev1.Volume) bool {
	s := &v.VolumeSource
	if s.EmptyDir != nil {
		return s.EmptyDir.Medium == corev1.StorageMediumDefault || s.EmptyDir.Medium == corev1.StorageMediumMemory
	}
	return s.ConfigMap != nil || s.Secret != nil || s.DownwardAPI != nil || s.Projected != nil
}

func podMapped(sc *corev1.PodSecurityContext) bool {
	return sc == nil || mapped(sc.RunAsUser, sc.RunAsGroup, sc.FSGroup) &&
		!slices.ContainsFunc(sc.SupplementalGroups, func(id int64) bool { return id > maxMappedID })
}

func mapped(ids ...*int64) bool {
	return !slices.ContainsFunc(ids, func(id *int64) bool { return id != nil && *id > maxMappedID })
}

// indifferent says whether a container does not notice in whose user namespace it runs.
func indifferent(ct *corev1.Container) bool {
	for _, list := range []corev1.ResourceList{ct.Resources.Limits, ct.Resources.Requests} {
		for name := range list {
			if strings.Contains(string(name), "/") { // a device
				return false
			}
		}
	}
	sc := ct.SecurityContext
	return len(ct.VolumeDevices) == 0 && len(ct.Resources.Claims) == 0 && (sc == nil || !ptr.Deref(sc.Privileged, false) &&
		(sc.Capabilities == nil || len(sc.Capabilities.Add) == 0) && sc.ProcMount == nil && mapped(sc.RunAsUser, sc.RunAsGroup))
}

// ruling are the capabilities that are as good as NET_ADMIN, or better.
var ruling = []corev1.Capability{netAdmin, "CAP_NET_ADMIN", "SYS_ADMIN", "CAP_SYS_ADMIN", "ALL"}

// warnRuled tells of containers that could do with the sidecar's interface what the sidecar does.
func (c *candidate) warnRuled() {
	if !c.grant.netAdmin {
		return
	}
	c.containers(func(path string, ct *corev1.Container) finding {
		sc := ct.SecurityContext
		if sc != nil && (ptr.Deref(sc.Privileged, false) || sc.Capabilities != nil &&
			slices.ContainsFunc(sc.Capabilities.Add, func(a corev1.Capability) bool { return slices.Contains(ruling, a) })) {
			c.warn("%s.securityContext: it can change the tunnel's interface and, with the datapath Kernel, read its key", path)
		}
		return finding{}
	})
}
