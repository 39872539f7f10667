package controller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// egress makes the Services of the tunnel's egress what they should be, and deletes those that spec.egress does not name any more. What
// is somebody else's is left alone; the tunnel's condition says so.
func (r *gatewayReconciler) egress(ctx context.Context, t *v1alpha1.TenantTunnel) error {
	named := map[string]bool{}
	for _, e := range t.Spec.Egress {
		named[e.Service] = t.Spec.Gateway != nil
	}
	var all corev1.ServiceList
	if err := r.client.List(ctx, &all, client.InNamespace(t.Namespace), client.MatchingLabels{v1alpha1.LabelEgress: v1alpha1.EgressEnabled},
		client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list the egress Services of namespace %s: %w", t.Namespace, err)
	}
	var errs []error
	for i := range all.Items {
		if s := &all.Items[i]; !named[s.Name] && tenant.OwnsEgressService(t, s) {
			uid := s.UID
			o := &corev1.Service{}
			o.Namespace, o.Name = s.Namespace, s.Name
			if err := gone(r.client.Delete(ctx, o, client.Preconditions{UID: &uid})); err != nil {
				errs = append(errs, fmt.Errorf("delete Service %s/%s: %w", s.Namespace, s.Name, err))
			}
		}
	}
	for _, s := range injector.EgressServices(t) {
		if err := ignoreTerminating(r.egressService(ctx, t, s)); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// egressService applies one Service, if it is the tunnel's or nobody's. The policy that bounds what the operator may do, and that an
// object has one controller, keep off whoever takes the name after we looked.
func (r *gatewayReconciler) egressService(ctx context.Context, t *v1alpha1.TenantTunnel, want *corev1.Service) error {
	var have corev1.Service
	err := r.client.Get(ctx, client.ObjectKeyFromObject(want), &have)
	if apierrors.IsNotFound(err) { // the cache may be behind
		err = r.live.Get(ctx, client.ObjectKeyFromObject(want), &have)
	}
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("get Service %s/%s: %w", want.Namespace, want.Name, err)
	case !tenant.OwnsEgressService(t, &have):
		return nil
	default:
		want.UID = have.UID
	}
	u, err := applyConfiguration(want)
	if err != nil {
		return err
	}
	if _, err = apply(ctx, r.client, u); want.UID != "" {
		err = gone(err) // another since, which the cache will tell of
	}
	return err
}

// egressServices are the Services of the tunnel's namespace, where it matters whose they are.
func egressServices(ctx context.Context, c client.Reader, t *v1alpha1.TenantTunnel) ([]corev1.Service, error) {
	if !tenant.ServesEgress(t) {
		return nil, nil
	}
	var all corev1.ServiceList
	if err := c.List(ctx, &all, client.InNamespace(t.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the Services of namespace %s: %w", t.Namespace, err)
	}
	return all.Items, nil
}

// egressTunnels asks for the tunnels that name a Service in their egress, and for the one that made it.
func egressTunnels(c client.Reader) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		var all v1alpha1.TenantTunnelList
		if err := c.List(ctx, &all, client.InNamespace(o.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
			return nil // there is no cache, and so no manager any more
		}
		var out []reconcile.Request
		for i := range all.Items {
			t := &all.Items[i]
			asks := o.GetLabels()[v1alpha1.LabelEgress] != "" && o.GetLabels()[v1alpha1.LabelTunnel] == t.Name
			for _, e := range t.Spec.Egress {
				asks = asks || e.Service == o.GetName()
			}
			if asks {
				out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: t.Namespace, Name: t.Name}})
			}
		}
		return out
	})
}

var gatewayChanged = updates(gatewayMatters)

// gatewayMatters is about tunnels: Services follow the ports that the status says, and the disruption budget whether a gateway is active.
func gatewayMatters(before, after client.Object) bool {
	a, aok := before.(*v1alpha1.TenantTunnel)
	b, bok := after.(*v1alpha1.TenantTunnel)
	return !aok || !bok || a.Generation != b.Generation || isActive(a) != isActive(b) || !equality.Semantic.DeepEqual(egressOf(a), egressOf(b))
}

func isActive(t *v1alpha1.TenantTunnel) bool {
	return t.Status.Gateway != nil && t.Status.Gateway.Active != ""
}

func egressOf(t *v1alpha1.TenantTunnel) []v1alpha1.EgressPort {
	if t.Status.Gateway == nil {
		return nil
	}
	return t.Status.Gateway.Egress
}

// writeTunnelStatus writes ports and addresses that it gives out only to the very object that it gave them out for: two different ones
// must not have been said of one entry.
func writeTunnelStatus(ctx context.Context, c client.Client, t *v1alpha1.TenantTunnel, want v1alpha1.TenantTunnelStatus) error {
	who := identity(t.Namespace, t.Name, t.UID)
	if after := (&v1alpha1.TenantTunnel{Status: want}); !equality.Semantic.DeepEqual(egressOf(t), egressOf(after)) || !equality.Semantic.DeepEqual(t.Status.Services, want.Services) {
		who["resourceVersion"] = t.ResourceVersion
	}
	return applyStatusTo(ctx, c, "TenantTunnel", &t.ObjectMeta, who, tunnelStatusObject(want))
}

func serviceAddressObjects(services []v1alpha1.ServiceAddresses) []any {
	out := make([]any, 0, len(services))
	for _, s := range services {
		out = append(out, object{"service": s.Service, "addresses": anySlice(s.Addresses)})
	}
	return out
}

func egressPortObjects(ports []v1alpha1.EgressPort) []any {
	out := make([]any, 0, len(ports))
	for _, e := range ports {
		out = append(out, object{"host": e.Host, "port": int64(e.Port.Port), "protocol": string(e.Protocol), "gatewayPort": int64(e.GatewayPort)})
	}
	return out
}
