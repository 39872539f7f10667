package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// gatewayReconciler keeps what the gateways of tunnels consist of. It makes their keys and cannot read them afterwards.
type gatewayReconciler struct {
	client   client.Client
	live     client.Reader // the API server itself
	recorder events.EventRecorder
	pods     *injector.Config // what gateway pods have in common
	now      func() time.Time
}

// gatewayResync is how often what was changed or deleted by others is set right, should nothing else bring us back.
const gatewayResync = 10 * time.Minute

func (r *gatewayReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	t, err := getTunnel(ctx, r.client, req.NamespacedName)
	if err != nil || t == nil || !t.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, err // what it owned goes with it
	}
	if t.Spec.Gateway == nil {
		return reconcile.Result{}, errors.Join(r.egress(ctx, t), r.remove(ctx, t))
	}
	at, err := siteOf(ctx, r.client, t)
	if err != nil {
		return reconcile.Result{}, err
	}
	soon := tenant.TakesOver(t, r.now())
	at.TakesOver = soon > 0
	if r.pods.GatewayRefused(t, at) != "" { // the tunnel's status says it; what runs goes on as it is
		return reconcile.Result{RequeueAfter: gatewayResync}, r.egress(ctx, t)
	}
	if err := r.key(ctx, t); err != nil {
		return reconcile.Result{}, err
	}
	var errs []error // one that is refused, a port that is taken, does not keep the others away
	for _, o := range r.pods.Gateway(t, at) {
		u, err := applyConfiguration(o)
		if err == nil {
			_, err = apply(ctx, r.client, u)
		}
		if err = ignoreTerminating(err); err != nil {
			errs = append(errs, err)
		}
	}
	if err := r.egress(ctx, t); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		r.recorder.Eventf(t, nil, corev1.EventTypeWarning, string(tenant.ReasonApplyFailed), "Apply", "the gateway is not as spec.gateway says: %s", err)
		return reconcile.Result{}, err
	}
	if soon > 0 {
		return reconcile.Result{RequeueAfter: min(soon+time.Second, gatewayResync)}, nil
	}
	return reconcile.Result{RequeueAfter: gatewayResync}, nil
}

// key makes the gateway's key where it has none.
func (r *gatewayReconciler) key(ctx context.Context, t *v1alpha1.TenantTunnel) error {
	err := r.client.Create(ctx, injector.GatewayKey(t, key.NewPrivate().Reveal()))
	if err == nil || apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err = ignoreTerminating(err); err != nil {
		return fmt.Errorf("make the key of gateway %s/%s: %w", t.Namespace, tenant.GatewayName(t.Name), err)
	}
	return nil
}

// remove deletes the gateway of a tunnel that has none any more, the Deployment last: it is how we know that there was one. A key that
// somebody else put there is not the operator's to delete: an Event says so, and the rest goes.
func (r *gatewayReconciler) remove(ctx context.Context, t *v1alpha1.TenantTunnel) error {
	name := types.NamespacedName{Namespace: t.Namespace, Name: tenant.GatewayName(t.Name)}
	var d appsv1.Deployment
	if err := r.client.Get(ctx, name, &d); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !metav1.IsControlledBy(&d, t) {
		return nil // somebody else's of that name
	}
	var errs []error
	secret := injector.GatewayKey(t, "")
	switch err := client.IgnoreNotFound(r.client.Delete(ctx, secret)); {
	case apierrors.IsForbidden(err) || apierrors.IsInvalid(err):
		r.recorder.Eventf(t, nil, corev1.EventTypeWarning, string(tenant.ReasonApplyFailed), "Remove",
			"the gateway goes, but its key is kept: Secret %s was not made by the operator. Delete it, or the next gateway has the same key", secret.Name)
	case err != nil:
		errs = append(errs, fmt.Errorf("delete the key of %s: %w", name, err))
	}
	var objects []client.Object
	with := t.DeepCopy()
	with.Spec.Gateway = &v1alpha1.Gateway{}
	for _, o := range r.pods.Gateway(with, injector.Site{}) {
		objects = append(objects, o.(client.Object)) //nolint:forcetypeassert // every kind of the API is one
	}
	for i, o := range objects {
		if i == len(objects)-1 && len(errs) > 0 {
			break
		}
		if err := client.IgnoreNotFound(r.client.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationBackground))); err != nil {
			errs = append(errs, fmt.Errorf("delete %T %s: %w", o, name, err))
		}
	}
	return errors.Join(errs...)
}

// applyConfiguration is an object as an apply configuration: without what Go's types cannot leave out.
func applyConfiguration(o runtime.Object) (object, error) {
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", o, err)
	}
	delete(u, "status")
	prune(u)
	return u, nil
}

// prune takes away what is null or an empty object, but for those that mean something.
func prune(m object) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case object:
			if prune(v); len(v) == 0 && k != "emptyDir" && k != "podSelector" {
				delete(m, k)
			}
		case []any:
			for _, e := range v {
				if e, ok := e.(object); ok {
					prune(e)
				}
			}
		}
	}
}
