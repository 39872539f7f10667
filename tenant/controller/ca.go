package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// caReconciler keeps the ConfigMap that injected pods mount in every namespace that has a tunnel, opted in or not: a pod that is
// created the moment its namespace is opted in must not wait for us.
type caReconciler struct {
	client client.Client
	bundle func() []byte
}

func (r *caReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	namespace := req.Name
	var tunnels v1alpha1.TenantTunnelList
	if err := r.client.List(ctx, &tunnels, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the tunnels of namespace %s: %w", namespace, err)
	}
	var current corev1.ConfigMap
	err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: tenant.CAConfigMap}, &current)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("get ConfigMap %s/%s: %w", namespace, tenant.CAConfigMap, err)
	}
	exists := err == nil
	ours := current.Labels[labelManagedBy] == managedBy
	if len(tunnels.Items) == 0 {
		if !exists || !ours {
			return reconcile.Result{}, nil
		}
		if err := gone(r.client.Delete(ctx, &current, client.Preconditions{UID: &current.UID})); err != nil {
			return reconcile.Result{}, fmt.Errorf("delete ConfigMap %s/%s: %w", namespace, tenant.CAConfigMap, err)
		}
		return reconcile.Result{}, nil
	}
	bundle, owners := r.bundle(), caOwners(tunnels.Items)
	if len(bundle) == 0 || exists && ours && current.Data[tenant.CAKey] == string(bundle) && slices.Equal(ownerUIDs(current.OwnerReferences), ownerUIDs(owners)) {
		return reconcile.Result{}, nil // without a bundle: CAChanged brings us back
	}
	_, err = apply(ctx, r.client, caObject(namespace, bundle, owners))
	return reconcile.Result{}, ignoreTerminating(err)
}

// maxCAOwners bounds what is written into a ConfigMap of a namespace with many tunnels.
const maxCAOwners = 8

// caOwners are tunnels that the ConfigMap goes with: while the operator is there it deletes the ConfigMap itself, and when the operator
// and the tunnels are removed together, the cluster does. Of many tunnels the oldest are enough: if these go, others take their place.
func caOwners(tunnels []v1alpha1.TenantTunnel) []metav1.OwnerReference {
	list := make([]*v1alpha1.TenantTunnel, len(tunnels))
	for i := range tunnels {
		list[i] = &tunnels[i]
	}
	slices.SortFunc(list, func(a, b *v1alpha1.TenantTunnel) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	out := make([]metav1.OwnerReference, 0, maxCAOwners)
	for _, t := range list[:min(len(list), maxCAOwners)] {
		out = append(out, metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "TenantTunnel", Name: t.Name, UID: t.UID})
	}
	return out
}

// ownerUIDs are in order: the API server keeps the order of a list, but whoever else writes owners need not.
func ownerUIDs(owners []metav1.OwnerReference) []types.UID {
	out := make([]types.UID, 0, len(owners))
	for _, o := range owners {
		out = append(out, o.UID)
	}
	slices.Sort(out)
	return out
}

// everyNamespace asks for a reconcile of every namespace with a tunnel.
func (r *caReconciler) everyNamespace() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request {
		var tunnels v1alpha1.TenantTunnelList
		if err := r.client.List(ctx, &tunnels, client.UnsafeDisableDeepCopy); err != nil {
			return nil // the cache is stopping: there is no other way for it to fail
		}
		var requests []reconcile.Request
		seen := make(map[string]bool)
		for i := range tunnels.Items {
			if ns := tunnels.Items[i].Namespace; !seen[ns] {
				seen[ns] = true
				requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: ns}})
			}
		}
		return requests
	})
}

// gone ignores that an object was deleted or replaced before us.
func gone(err error) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// ignoreTerminating ignores that a namespace is being deleted: nothing can be made in it, and nothing has to be.
func ignoreTerminating(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
