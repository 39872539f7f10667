package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const caConfigMap = tenant.CAConfigMap

// What is read, by what it takes the right to.
const (
	srcKinds        source = "get customresourcedefinitions"
	srcOperator     source = "get deployments of the operator's namespace"
	srcWebhook      source = "get mutatingwebhookconfigurations"
	srcCertificate  source = "get secrets of the operator's namespace"
	srcSystemSlices source = "list endpointslices of the operator's namespace"
	srcNamespaces   source = "get namespaces"
	srcTunnels      source = "list tenanttunnels"
	srcMembers      source = "list tunnelmembers"
	srcPeers        source = "list tunnelpeers"
	srcPods         source = "list pods"
	srcServices     source = "list services"
	srcSlices       source = "list endpointslices"
	srcPolicies     source = "list networkpolicies"
	srcLeases       source = "list leases"
	srcCAs          source = "get configmaps"
	srcPreshared    source = "get secrets"
	srcNodes        source = "list nodes"
	srcNodeLeases   source = "list leases of kube-node-lease"
	srcServer       source = "ask the API server for its time"
	srcSidecars     source = "create pods/portforward"
)

// ourKind is a kind of ours.
type ourKind struct {
	plural, kind string
	object       any
}

func (k ourKind) crd() string { return k.plural + "." + v1alpha1.GroupVersion.Group }

var ourKinds = []ourKind{
	{"tenanttunnels", "TenantTunnel", v1alpha1.TenantTunnel{}},
	{"tunnelpeers", "TunnelPeer", v1alpha1.TunnelPeer{}},
	{"tunnelmembers", "TunnelMember", v1alpha1.TunnelMember{}},
}

// NewClient reads what Gather does. It asks the API server for none of its kinds beforehand.
func NewClient(cfg *rest.Config) (client.Client, error) {
	s := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(s), appsv1.AddToScheme(s), admissionv1.AddToScheme(s), discoveryv1.AddToScheme(s), networkingv1.AddToScheme(s),
		coordinationv1.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		return nil, err
	}
	m := meta.NewDefaultRESTMapper(nil)
	for gv, kinds := range map[schema.GroupVersion][]string{
		v1alpha1.GroupVersion:             {"TenantTunnel", "TunnelPeer", "TunnelMember"},
		corev1.SchemeGroupVersion:         {"Pod", "Service", "Secret", "ConfigMap"},
		appsv1.SchemeGroupVersion:         {"Deployment"},
		discoveryv1.SchemeGroupVersion:    {"EndpointSlice"},
		coordinationv1.SchemeGroupVersion: {"Lease"},
	} {
		for _, kind := range kinds {
			m.Add(gv.WithKind(kind), meta.RESTScopeNamespace)
		}
	}
	m.AddSpecific(networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"), networkingv1.SchemeGroupVersion.WithResource("networkpolicies"),
		networkingv1.SchemeGroupVersion.WithResource("networkpolicy"), meta.RESTScopeNamespace)
	for _, kind := range []string{"Node", "Namespace"} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	m.Add(admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"), meta.RESTScopeRoot)
	m.Add(crdKind, meta.RESTScopeRoot)
	return client.New(cfg, client.Options{Scheme: s, Mapper: m})
}

var crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// gatherer reads, and notes what it may not.
type gatherer struct {
	client client.Client
	facts  *Facts
}

// Gather reads Facts of a namespace, or of all for "". The time of the API server is told by who asked it. An error is no matter of
// rights: the cluster is not reached.
func Gather(ctx context.Context, c client.Client, namespace, system string, progress func(string)) (*Facts, error) {
	g := &gatherer{c, &Facts{Namespace: namespace, System: system, Now: time.Now(), Kinds: map[string]*unstructured.Unstructured{}, CAs: map[string]string{}, Preshared: map[string]bool{},
		Sidecars: map[PodID]Sidecar{}, gaps: map[source]Gap{}}}
	progress("reading tunnels")
	if err := g.all(ctx, g.tenants()); err != nil {
		return nil, err
	}
	progress("reading the installation")
	if err := g.all(ctx, g.installation()); err != nil {
		return nil, err
	}
	return g.facts, g.all(ctx, g.perNamespace())
}

// reads is one read of a source.
type reads struct {
	source
	do func(ctx context.Context) error
}

func (g *gatherer) all(ctx context.Context, all []reads) error {
	for _, r := range all {
		err := r.do(ctx)
		switch {
		case err == nil:
		case apierrors.IsForbidden(err):
			g.facts.gap(r.source, "you have not the right to "+string(r.source))
		case apierrors.IsNotFound(err) || meta.IsNoMatchError(err):
			g.facts.gap(r.source, "the cluster does not know them")
		default:
			return fmt.Errorf("%s: %w", r.source, err)
		}
	}
	return nil
}

func (f *Facts) gap(s source, why string) { f.gaps[s] = Gap{What: string(s), Why: why} }

// list reads all of a kind, of our namespaces.
func (g *gatherer) list(s source, into client.ObjectList, take func()) reads {
	return g.listIn(s, into, g.facts.Namespace, take)
}

func (g *gatherer) listIn(s source, into client.ObjectList, namespace string, take func()) reads {
	return reads{s, func(ctx context.Context) error {
		err := g.client.List(ctx, into, client.InNamespace(namespace))
		if err == nil {
			take()
		}
		return err
	}}
}

// get reads one object, which need not be there.
func (g *gatherer) get(s source, name client.ObjectKey, into client.Object, take func()) reads {
	return reads{s, func(ctx context.Context) error {
		err := g.client.Get(ctx, name, into)
		if err == nil {
			take()
		}
		return client.IgnoreNotFound(err)
	}}
}

func (g *gatherer) tenants() []reads {
	f := g.facts
	var tunnels v1alpha1.TenantTunnelList
	var members v1alpha1.TunnelMemberList
	var peers v1alpha1.TunnelPeerList
	var pods corev1.PodList
	var services corev1.ServiceList
	var endpoints discoveryv1.EndpointSliceList
	var policies networkingv1.NetworkPolicyList
	var leases coordinationv1.LeaseList
	return []reads{
		g.list(srcTunnels, &tunnels, func() { f.Tunnels = tunnels.Items }),
		g.list(srcMembers, &members, func() { f.Members = members.Items }),
		g.list(srcPeers, &peers, func() { f.Peers = peers.Items }),
		g.list(srcPods, &pods, func() { f.Pods = pods.Items }),
		g.list(srcServices, &services, func() { f.Services = services.Items }),
		g.list(srcSlices, &endpoints, func() { f.Slices = endpoints.Items }),
		g.list(srcPolicies, &policies, func() { f.Policies = policies.Items }),
		g.list(srcLeases, &leases, func() { f.Leases = leases.Items }),
		g.namespaces(),
	}
}

func (g *gatherer) namespaces() reads {
	f := g.facts
	if f.Namespace == "" {
		var all corev1.NamespaceList
		return g.listIn(srcNamespaces, &all, "", func() { f.Namespaces = all.Items })
	}
	var one corev1.Namespace
	return g.get(srcNamespaces, client.ObjectKey{Name: f.Namespace}, &one, func() { f.Namespaces = []corev1.Namespace{one} })
}

func (g *gatherer) installation() []reads {
	f := g.facts
	var operator appsv1.Deployment
	var webhook admissionv1.MutatingWebhookConfiguration
	var secret corev1.Secret
	var endpoints discoveryv1.EndpointSliceList
	var nodes corev1.NodeList
	var leases coordinationv1.LeaseList
	all := []reads{
		g.get(srcOperator, client.ObjectKey{Namespace: f.System, Name: operatorName}, &operator, func() { f.Operator = &operator }),
		g.get(srcWebhook, client.ObjectKey{Name: webhookName}, &webhook, func() { f.Webhook = &webhook }),
		g.get(srcCertificate, client.ObjectKey{Namespace: f.System, Name: servingSecret}, &secret, func() {
			f.Certificate = &Certificate{Leaf: secret.Data[corev1.TLSCertKey], CA: secret.Data[tenant.CAKey]} // never the private key
		}),
		g.listIn(srcSystemSlices, &endpoints, f.System, func() { f.SystemSlice = endpoints.Items }),
		g.listIn(srcNodes, &nodes, "", func() { f.Nodes = nodes.Items }),
		g.listIn(srcNodeLeases, &leases, corev1.NamespaceNodeLease, func() { f.NodeLeases, f.LeasesRead = leases.Items, time.Now() }),
	}
	for _, k := range ourKinds {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(crdKind)
		all = append(all, g.get(srcKinds, client.ObjectKey{Name: k.crd()}, u, func() { f.Kinds[k.plural] = u }))
	}
	return all
}

// perNamespace reads what has one name in each namespace: of a Secret, that it is there.
func (g *gatherer) perNamespace() (all []reads) {
	f := g.facts
	for _, ns := range f.spaces() {
		var ca corev1.ConfigMap
		all = append(all, g.get(srcCAs, client.ObjectKey{Namespace: ns, Name: caConfigMap}, &ca, func() { f.CAs[ns] = ca.Data[tenant.CAKey] }))
	}
	asked := map[client.ObjectKey]bool{}
	for i := range f.Peers {
		p := &f.Peers[i]
		key := client.ObjectKey{Namespace: p.Namespace, Name: tenant.PresharedKeys(p.Spec.Tunnel)}
		if p.Spec.PresharedKey == nil || asked[key] {
			continue
		}
		asked[key] = true
		only := &metav1.PartialObjectMetadata{}
		only.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
		all = append(all, g.get(srcPreshared, key, only, func() { f.Preshared[key.String()] = true }))
	}
	return all
}
