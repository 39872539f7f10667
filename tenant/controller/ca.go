package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	bundle := r.bundle()
	if len(bundle) == 0 || exists && ours && current.Data[tenant.CAKey] == string(bundle) {
		return reconcile.Result{}, nil // without a bundle: CAChanged brings us back
	}
	_, err = apply(ctx, r.client, caObject(namespace, bundle))
	return reconcile.Result{}, ignoreTerminating(err)
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
