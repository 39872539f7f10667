package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// peerReconciler writes what is decided about all the peers of one tunnel: whether one is accepted depends on the others.
type peerReconciler struct {
	client   client.Client
	recorder events.EventRecorder
	now      func() time.Time

	mu sync.Mutex
	// given are the addresses that were written last, which the cache may not show yet.
	given map[types.NamespacedName]map[types.UID][]string
}

// recall puts what was given to peers lately where the cache shows none.
func (r *peerReconciler) recall(tunnel types.NamespacedName, peers []v1alpha1.TunnelPeer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range peers {
		if p := &peers[i]; len(p.Status.Addresses) == 0 {
			p.Status.Addresses = r.given[tunnel][p.UID]
		}
	}
}

// remember takes the place of what was given before, so that it grows with the peers there are.
func (r *peerReconciler) remember(tunnel types.NamespacedName, peers []v1alpha1.TunnelPeer, decisions map[string]tenant.PeerDecision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	given := map[types.UID][]string{}
	for i := range peers {
		if a := decisions[peers[i].Name].Addresses; len(a) > 0 {
			given[peers[i].UID] = a
		}
	}
	if r.given == nil {
		r.given = map[types.NamespacedName]map[types.UID][]string{}
	}
	if r.given[tunnel] = given; len(given) == 0 {
		delete(r.given, tunnel)
	}
}

func (r *peerReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var all v1alpha1.TunnelPeerList
	if err := r.client.List(ctx, &all, client.InNamespace(req.Namespace)); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the peers of namespace %s: %w", req.Namespace, err)
	}
	peers := all.Items[:0]
	for _, p := range all.Items {
		if p.Spec.Tunnel == req.Name {
			peers = append(peers, p)
		}
	}
	if len(peers) == 0 {
		r.remember(req.NamespacedName, nil, nil)
		return reconcile.Result{}, nil
	}
	tunnel, err := getTunnel(ctx, r.client, req.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	var members v1alpha1.TunnelMemberList
	if err := r.client.List(ctx, &members, client.InNamespace(req.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the members of namespace %s: %w", req.Namespace, err)
	}
	now := r.now()
	shown := make([]v1alpha1.TunnelPeerStatus, len(peers))
	for i := range peers {
		shown[i] = peers[i].Status
	}
	r.recall(req.NamespacedName, peers)
	decisions := tenant.DecidePeers(tunnel, peers, members.Items, now)
	r.remember(req.NamespacedName, peers, decisions)
	var errs []error
	for i := range peers {
		peers[i].Status = shown[i]
		if d, ok := decisions[peers[i].Name]; ok { // none for one that is being deleted
			errs = append(errs, r.write(ctx, &peers[i], d))
		}
	}
	return reconcile.Result{RequeueAfter: tenant.NextExpiry(peers, now)}, errors.Join(errs...)
}

func (r *peerReconciler) write(ctx context.Context, p *v1alpha1.TunnelPeer, d tenant.PeerDecision) error {
	c := tenant.Condition(p.Status.Conditions, v1alpha1.ConditionAccepted, d.Accepted(), d.Decision, p.Generation, metav1.NewTime(r.now()))
	if old := meta.FindStatusCondition(p.Status.Conditions, c.Type); p.Status.ObservedGeneration == p.Generation && old != nil &&
		equality.Semantic.DeepEqual(*old, c) && slices.Equal(p.Status.Addresses, d.Addresses) {
		return nil
	}
	status := object{"observedGeneration": p.Generation, "conditions": conditionObjects(c)}
	if len(d.Addresses) > 0 {
		status["addresses"] = anySlice(d.Addresses)
	}
	if err := applyStatus(ctx, r.client, "TunnelPeer", &p.ObjectMeta, status); err != nil {
		return gone(err)
	}
	if reasonOf(p.Status.Conditions, v1alpha1.ConditionAccepted) != d.Reason {
		r.recorder.Eventf(p, nil, eventType(d.Decision), string(d.Reason), "Decide", "%s", c.Message)
	}
	return nil
}
