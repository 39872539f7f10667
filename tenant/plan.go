package tenant

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The ConfigMap that tells members whom to trust: mounted by the injected sidecar, written into every namespace with a tunnel.
const (
	CAConfigMap = "tenantwire-ca"
	CAKey       = "ca.crt"
)

// Inputs is what a plan is made from: a tunnel, the pods that carry its label, every TunnelMember of the namespace and the peers.
type Inputs struct {
	Tunnel  *v1alpha1.TenantTunnel // nil: deleted
	Pods    []corev1.Pod
	Members []v1alpha1.TunnelMember
	Peers   []v1alpha1.TunnelPeer
	// Services are the namespace's, where spec.egress names any.
	Services []corev1.Service
	// GatewayRefused says why no pod of the tunnel's gateway may be made; empty: they may.
	GatewayRefused string
	Now            time.Time // the plan holds from then until NextExpiry of the peers
}

// DesiredMember is what a TunnelMember should say.
type DesiredMember struct {
	Name      string // of the pod and of the member
	PodUID    types.UID
	Tunnel    string
	Role      v1alpha1.MemberRole
	Addresses []string
	Ports     []v1alpha1.Port
	// Existing is the UID of the TunnelMember to change; empty: there is none, make one.
	Existing types.UID
}

// Problem is something that keeps a pod from its tunnel or from some of its ports.
type Problem struct {
	Pod    string
	PodUID types.UID
	Decision
}

// Plan is what to do about a tunnel. Delete comes first: a member that is replaced has the name of its successor.
type Plan struct {
	Delete   []v1alpha1.TunnelMember
	Apply    []DesiredMember
	Problems []Problem
	Status   Status
}

// NewPlan decides what a tunnel's members should be. Members keep the addresses they have as long as these are the tunnel's;
// pods get theirs in the order of their creation. Without a tunnel every member that names it is deleted.
func NewPlan(in Inputs, name string) Plan {
	var p Plan
	existing := make(map[string]*v1alpha1.TunnelMember, len(in.Members))
	for i := range in.Members {
		existing[in.Members[i].Name] = &in.Members[i]
	}
	pods := joining(in)
	wanted := make(map[string]types.UID, len(pods))
	for _, pod := range pods {
		wanted[pod.Name] = pod.UID
	}
	var kept []v1alpha1.TunnelMember
	for i := range in.Members {
		m := &in.Members[i]
		uid, ok := wanted[m.Name]
		switch {
		case ok && m.Spec.PodUID == string(uid) && m.Spec.Tunnel == name:
			kept = append(kept, *m)
		case ok || m.Spec.Tunnel == name: // another pod's, or left over
			p.Delete = append(p.Delete, *m)
			delete(existing, m.Name)
		}
	}
	if in.Tunnel == nil {
		return p
	}
	p.members(in, pods, existing)
	p.Status = tunnelStatus(in, kept, len(p.Apply), p.Problems)
	p.services(in, kept)
	return p
}

// joining is the pods that should be members, oldest first. One that is going away keeps its member but gets no new one.
func joining(in Inputs) []*corev1.Pod {
	if in.Tunnel == nil {
		return nil
	}
	var out []*corev1.Pod
	for i := range in.Pods {
		pod := &in.Pods[i]
		if belongs(in.Tunnel, pod.Namespace, pod.Labels[v1alpha1.LabelTunnel]) &&
			pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			out = append(out, pod)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// members plans one TunnelMember for each pod. Addresses in use are kept before any new one is given out.
func (p *Plan) members(in Inputs, pods []*corev1.Pod, existing map[string]*v1alpha1.TunnelMember) {
	t := in.Tunnel
	allocator := NewAllocator(t)
	keeps := make(map[string]bool, len(pods))
	old := make([]*v1alpha1.TunnelMember, 0, len(pods))
	for _, pod := range pods {
		if m := existing[pod.Name]; m != nil {
			old = append(old, m)
		}
	}
	slices.SortFunc(old, olderMember)
	for _, m := range old {
		keeps[m.Name] = allocator.Keep(m.Spec.Addresses)
	}
	if t.Spec.Gateway != nil {
		allocator.Reserve(reserved(t))
	}
	allocator.Reserve(peerAddresses(t, in.Peers))
	for _, own := range ServiceAddresses(t, in.Members, in.Peers) {
		allocator.Reserve(own)
	}
	for _, pod := range pods {
		m := existing[pod.Name]
		if m == nil && pod.DeletionTimestamp != nil {
			continue
		}
		want := DesiredMember{Name: pod.Name, PodUID: pod.UID, Tunnel: t.Name, Role: roleOf(t, pod)}
		var err error
		if want.Role == v1alpha1.RoleMember { // a gateway's ports are not the tunnel's to reach
			if want.Ports, err = PodPorts(pod); err != nil {
				p.problem(pod, ReasonInvalidPorts, err)
			}
		}
		if m != nil {
			want.Existing, want.Addresses = m.UID, m.Spec.Addresses
		}
		if !keeps[pod.Name] {
			if want.Addresses, err = allocator.Take(pod.UID); err != nil {
				p.problem(pod, ReasonPoolExhausted, err)
				continue
			}
		}
		if m == nil || !keeps[pod.Name] || !slices.Equal(m.Spec.Ports, want.Ports) || cmp.Or(m.Spec.Role, v1alpha1.RoleMember) != want.Role {
			p.Apply = append(p.Apply, want)
		}
	}
}

// GatewayName is the name of everything that a tunnel's gateway consists of. The prefix is ours alone: the operator's rights to make
// gateways are bounded by it.
func GatewayName(tunnel string) string { return "tenantwire-gateway-" + tunnel }

// PresharedKeys is the name of the Secret that holds the preshared keys of a tunnel's peers, one an entry. The tenant makes it.
func PresharedKeys(tunnel string) string { return "tenantwire-psk-" + tunnel }

// roleOf looks at the pod's account too, which cannot be changed as labels can.
func roleOf(t *v1alpha1.TenantTunnel, pod *corev1.Pod) v1alpha1.MemberRole {
	if t.Spec.Gateway != nil && pod.Labels[v1alpha1.LabelRole] == v1alpha1.LabelRoleGateway && pod.Spec.ServiceAccountName == GatewayName(t.Name) {
		return v1alpha1.RoleGateway
	}
	return v1alpha1.RoleMember
}

func isGateway(m *v1alpha1.TunnelMember) bool { return m.Spec.Role == v1alpha1.RoleGateway }

func (p *Plan) problem(pod *corev1.Pod, reason Reason, err error) {
	p.Problems = append(p.Problems, Problem{pod.Name, pod.UID, Decision{reason, err.Error()}})
}
