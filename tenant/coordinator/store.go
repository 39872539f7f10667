package coordinator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups="",resources=pods;services,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=tenantwire.dev,resources=tenanttunnels;tunnelpeers;tunnelmembers,verbs=get;list;watch
// +kubebuilder:rbac:groups=tenantwire.dev,resources=tunnelmembers/status;tunnelpeers/status,verbs=patch

// Field owners of a member's status. They differ so that a report written from a cache that has not seen the registration yet
// cannot take the registration away.
const (
	registrationOwner = "tenantwire-registration"
	readinessOwner    = "tenantwire-readiness"
	gatewayOwner      = "tenantwire-gateway" // of a peer's
)

// What a bound token's review says of the pod it is bound to (KEP-4193).
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

// ClusterStore is the Store of a real cluster. Reads come from the manager's cache.
type ClusterStore struct {
	Client client.Client
	// Pods reads the pods without a sidecar that say that they go through a gateway; nil: there are none.
	Pods client.Reader
}

var _ Store = (*ClusterStore)(nil)

// Authenticate asks the API server to review the token, which refuses expired ones and those of deleted pods. The token must be
// bound to our audience and to a pod.
func (s *ClusterStore) Authenticate(ctx context.Context, token string) (Identity, error) {
	tr := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{wire.TokenAudience}}}
	if err := s.Client.Create(ctx, tr); err != nil {
		return Identity{}, fmt.Errorf("review token: %w", err)
	}
	st := tr.Status
	if !st.Authenticated {
		return Identity{}, fmt.Errorf("%w: the API server says it is not valid for audience %s", ErrUnauthenticated, wire.TokenAudience)
	}
	if !slices.Contains(st.Audiences, wire.TokenAudience) {
		return Identity{}, fmt.Errorf("%w: not bound to audience %s", ErrUnauthenticated, wire.TokenAudience)
	}
	ns, _, ok := strings.Cut(strings.TrimPrefix(st.User.Username, "system:serviceaccount:"), ":")
	name, uid := st.User.Extra[extraPodName], st.User.Extra[extraPodUID]
	if !ok || !strings.HasPrefix(st.User.Username, "system:serviceaccount:") || len(name) != 1 || len(uid) != 1 {
		return Identity{}, fmt.Errorf("%w: not bound to a pod", ErrUnauthenticated)
	}
	return Identity{Pod: types.NamespacedName{Namespace: ns, Name: name[0]}, UID: types.UID(uid[0])}, nil
}

// Member reads the TunnelMember and the pod's addresses.
func (s *ClusterStore) Member(ctx context.Context, id Identity) (Member, bool, error) {
	m := &v1alpha1.TunnelMember{}
	if err := s.Client.Get(ctx, id.Pod, m); err != nil {
		return Member{}, false, client.IgnoreNotFound(err)
	}
	if m.Spec.PodUID != string(id.UID) || !m.DeletionTimestamp.IsZero() {
		return Member{}, false, nil
	}
	pod := &corev1.Pod{}
	if err := s.Client.Get(ctx, id.Pod, pod); err != nil {
		return Member{}, false, client.IgnoreNotFound(err)
	}
	if pod.UID != id.UID {
		return Member{}, false, nil
	}
	out := Member{Object: m, Trace: pod.Annotations[v1alpha1.AnnotationTrace]}
	for _, p := range pod.Status.PodIPs {
		if ip, err := netip.ParseAddr(p.IP); err == nil {
			out.PodIPs = append(out.PodIPs, ip)
		}
	}
	return out, true, nil
}

// State lists the objects that a tunnel is planned from.
func (s *ClusterStore) State(ctx context.Context, n types.NamespacedName) (tenant.State, bool, error) {
	t := &v1alpha1.TenantTunnel{}
	if err := s.Client.Get(ctx, n, t); err != nil {
		if apierrors.IsNotFound(err) {
			return tenant.State{}, false, nil
		}
		return tenant.State{}, false, fmt.Errorf("get tunnel %s: %w", n, err)
	}
	if !t.DeletionTimestamp.IsZero() {
		return tenant.State{}, false, nil
	}
	var (
		members  v1alpha1.TunnelMemberList
		peers    v1alpha1.TunnelPeerList
		services corev1.ServiceList
		slices   discoveryv1.EndpointSliceList
	)
	for _, l := range []client.ObjectList{&members, &peers, &services, &slices} {
		if err := s.Client.List(ctx, l, client.InNamespace(n.Namespace), client.UnsafeDisableDeepCopy); err != nil {
			return tenant.State{}, false, fmt.Errorf("list %T of namespace %s: %w", l, n.Namespace, err)
		}
	}
	st := tenant.State{Tunnel: t, Peers: peers.Items, Services: services.Items, EndpointSlices: slices.Items, Now: time.Now()}
	for i := range members.Items {
		if members.Items[i].Spec.Tunnel == n.Name {
			st.Members = append(st.Members, members.Items[i])
		}
	}
	var err error
	st.Pods, err = s.plainPods(ctx, t)
	return st, err == nil, err
}

// WriteStatus applies the fields of one owner.
func (s *ClusterStore) WriteStatus(ctx context.Context, m *v1alpha1.TunnelMember, st Status) error {
	status, owner := map[string]any{}, readinessOwner
	switch {
	case st.Registration != nil:
		owner = registrationOwner
		status["publicKey"] = st.Registration.PublicKey.String()
		status["endpoint"] = st.Registration.Endpoint.String()
		status["datapath"] = string(st.Registration.Datapath)
		if st.Registration.DatapathReason != "" {
			status["datapathReason"] = st.Registration.DatapathReason
		}
		if st.Registration.Version != "" {
			status["version"] = st.Registration.Version
		}
	case st.Ready != nil:
		status["conditions"] = []any{conditionObject(*st.Ready)}
	}
	return s.applyStatus(ctx, "TunnelMember", &m.ObjectMeta, status, owner)
}

// WritePeer applies what a gateway said of a peer.
func (s *ClusterStore) WritePeer(ctx context.Context, p *v1alpha1.TunnelPeer, connected metav1.Condition, handshake time.Time) error {
	status := map[string]any{"conditions": []any{conditionObject(connected)}}
	if !handshake.IsZero() {
		status["lastHandshake"] = handshake.UTC().Format(timeFormat)
	}
	return s.applyStatus(ctx, "TunnelPeer", &p.ObjectMeta, status, gatewayOwner)
}

// timeFormat is that of metav1.Time.
const timeFormat = "2006-01-02T15:04:05Z"

func conditionObject(c metav1.Condition) map[string]any {
	return map[string]any{
		"type": c.Type, "status": string(c.Status), "reason": c.Reason, "message": c.Message,
		"observedGeneration": c.ObservedGeneration, "lastTransitionTime": c.LastTransitionTime.UTC().Format(timeFormat),
	}
}

// applyStatus applies one owner's part of a status. The UID makes it fail instead of creating the object anew after it has gone.
func (s *ClusterStore) applyStatus(ctx context.Context, kind string, m *metav1.ObjectMeta, status map[string]any, owner string) error {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": kind,
		"metadata": map[string]any{"namespace": m.Namespace, "name": m.Name, "uid": string(m.UID)},
		"status":   status,
	}}
	err := s.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(owner), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply status of %s %s/%s: %w", kind, m.Namespace, m.Name, err)
	}
	return nil
}

// WatchChanges calls changed with the namespace of every object that plans are made from, whenever one changes.
func WatchChanges(ctx context.Context, c cache.Cache, changed func(namespace string)) error {
	return watchObjects(ctx, c, changed, &v1alpha1.TenantTunnel{}, &v1alpha1.TunnelMember{}, &v1alpha1.TunnelPeer{}, &corev1.Service{}, &discoveryv1.EndpointSlice{})
}

func watchObjects(ctx context.Context, c cache.Cache, changed func(namespace string), objects ...client.Object) error {
	on := func(o any) {
		if d, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
			o = d.Obj
		}
		if m, ok := o.(metav1.Object); ok {
			changed(m.GetNamespace())
		}
	}
	h := toolscache.ResourceEventHandlerFuncs{
		AddFunc: on, DeleteFunc: on,
		UpdateFunc: func(was, is any) {
			a, okA := was.(metav1.Object)
			b, okB := is.(metav1.Object)
			if okA && okB && a.GetResourceVersion() == b.GetResourceVersion() || !podMatters(was, is) {
				return // a resync, or nothing that we have to know
			}
			on(is)
		},
	}
	for _, o := range objects {
		i, err := c.GetInformer(ctx, o)
		if err != nil {
			return fmt.Errorf("watch %T: %w", o, err)
		}
		if _, err := i.AddEventHandler(h); err != nil {
			return fmt.Errorf("watch %T: %w", o, err)
		}
	}
	return nil
}
