package doctor

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Facts are all that checks look at. Where something could not be read, the lists that it would be in are empty, and known says so.
type Facts struct {
	Namespace string    // the only one that matters; empty: all
	System    string    // the operator's namespace
	Now       time.Time // by our clock
	Server    time.Time // by the API server's, at Now, to a second; zero: unknown

	// The installation.
	Operator    *appsv1.Deployment
	Webhook     *admissionv1.MutatingWebhookConfiguration
	Certificate *Certificate
	Kinds       map[string]*unstructured.Unstructured // definitions of our kinds by resource; nil: there is none
	SystemSlice []discoveryv1.EndpointSlice           // of the operator's Services

	// The namespaces.
	Namespaces []corev1.Namespace
	Tunnels    []v1alpha1.TenantTunnel
	Members    []v1alpha1.TunnelMember
	Peers      []v1alpha1.TunnelPeer
	Pods       []corev1.Pod
	Services   []corev1.Service
	Slices     []discoveryv1.EndpointSlice
	Policies   []networkingv1.NetworkPolicy
	Leases     []coordinationv1.Lease
	CAs        map[string]string // by namespace: the CA that its pods trust
	Preshared  map[string]bool   // namespace/name of Secrets with preshared keys that are there
	Nodes      []corev1.Node
	NodeLeases []coordinationv1.Lease
	LeasesRead time.Time // NodeLeases, by our clock: what is read before them may have taken long

	Sidecars map[PodID]Sidecar // those that were asked

	gaps    map[source]Gap
	hearing sync.Mutex // guards Sidecars and gaps while pods are asked
}

// Certificate is what is public of the operator's serving certificate.
type Certificate struct{ Leaf, CA []byte } // PEM

// PodID is a pod's namespace and name.
type PodID struct{ Namespace, Name string }

func (p PodID) String() string { return p.Namespace + "/" + p.Name }

// Sidecar is what a pod's sidecar said, twice a moment apart, or why it said nothing.
type Sidecar struct {
	Device *wire.Device
	Later  *wire.Device
	Asked  time.Time // by our clock, when Device was
	Took   time.Duration
	Why    string // it was asked, and did not answer
}

// Gap is what could not be looked at.
type Gap struct {
	What   string   `json:"what"`
	Why    string   `json:"why"`
	Checks []string `json:"checks,omitempty"` // that were not made, or not whole
}

// known says whether all of these were read.
func (f *Facts) known(all []source) bool {
	return !slices.ContainsFunc(all, func(s source) bool { _, gap := f.gaps[s]; return gap })
}

// Blind says that there are no tunnels to be read, so that nothing can be said of them.
func (f *Facts) Blind() bool { return !f.known([]source{srcTunnels}) }

func (f *Facts) namespace(name string) *corev1.Namespace {
	for i := range f.Namespaces {
		if f.Namespaces[i].Name == name {
			return &f.Namespaces[i]
		}
	}
	return nil
}

func (f *Facts) tunnel(namespace, name string) *v1alpha1.TenantTunnel {
	for i := range f.Tunnels {
		if t := &f.Tunnels[i]; t.Namespace == namespace && t.Name == name {
			return t
		}
	}
	return nil
}

func (f *Facts) service(namespace, name string) *corev1.Service {
	for i := range f.Services {
		if s := &f.Services[i]; s.Namespace == namespace && s.Name == name {
			return s
		}
	}
	return nil
}

func (f *Facts) pod(namespace, name string) *corev1.Pod {
	for i := range f.Pods {
		if p := &f.Pods[i]; p.Namespace == namespace && p.Name == name {
			return p
		}
	}
	return nil
}

func (f *Facts) member(namespace, name string) *v1alpha1.TunnelMember {
	for i := range f.Members {
		if m := &f.Members[i]; m.Namespace == namespace && m.Name == name {
			return m
		}
	}
	return nil
}

// peersIn are those of one namespace.
func (f *Facts) peersIn(namespace string) (out []v1alpha1.TunnelPeer) {
	for i := range f.Peers {
		if f.Peers[i].Namespace == namespace {
			out = append(out, f.Peers[i])
		}
	}
	return out
}

func (f *Facts) membersIn(namespace string) (out []v1alpha1.TunnelMember) {
	for i := range f.Members {
		if f.Members[i].Namespace == namespace {
			out = append(out, f.Members[i])
		}
	}
	return out
}

func (f *Facts) tunnelsIn(namespace string) (out []v1alpha1.TenantTunnel) {
	for i := range f.Tunnels {
		if f.Tunnels[i].Namespace == namespace {
			out = append(out, f.Tunnels[i])
		}
	}
	return out
}

// spaces are the namespaces that have anything to do with tunnels, sorted.
func (f *Facts) spaces() []string {
	all := map[string]bool{}
	for i := range f.Tunnels {
		all[f.Tunnels[i].Namespace] = true
	}
	for i := range f.Namespaces {
		if injector.OptedIn(f.Namespaces[i].Labels) {
			all[f.Namespaces[i].Name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// readyBehind are the endpoints of a Service that take connections.
func readyBehind(all []discoveryv1.EndpointSlice, namespace, service string) (out []discoveryv1.Endpoint) {
	for i := range all {
		s := &all[i]
		if s.Namespace != namespace || s.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				out = append(out, e)
			}
		}
	}
	return out
}

// sidecarOf is a pod's container of ours; nil: it has none.
func sidecarOf(p *corev1.Pod) *corev1.Container {
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.Name == injector.ContainerName {
			return c
		}
	}
	return nil
}

// alive says whether a pod still matters.
func alive(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func isGatewayPod(p *corev1.Pod) bool {
	return p.Labels[v1alpha1.LabelRole] == v1alpha1.LabelRoleGateway
}

// few names some and counts the rest.
func few(names []string) string {
	const some = 5
	if len(names) > some {
		return strings.Join(names[:some], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}
