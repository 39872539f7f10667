package webhook

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// gatherAndDecide decides on what the cache holds. Every decision that leaves the pod outside a tunnel, and those that a younger
// tunnel would change, is made again on what the API server says now. Services come from the cache both times: one that is not
// there yet is treated with the most caution.
func (h *handler) gatherAndDecide(ctx context.Context, in injector.Input, namespace string) (injector.Decision, error) {
	if err := gatherServices(ctx, h.cached, &in, namespace); err != nil {
		return injector.Decision{}, err
	}
	err := gatherTunnels(ctx, h.cached, &in, namespace)
	if err == nil {
		if d := injector.Decide(in); !needsLive(d) {
			return d, nil
		}
	} else if !apierrors.IsNotFound(err) {
		return injector.Decision{}, err
	}
	if err := gatherTunnels(ctx, h.live, &in, namespace); err != nil {
		return injector.Decision{}, err
	}
	return injector.Decide(in), nil
}

func needsLive(d injector.Decision) bool {
	switch d.Reason {
	case injector.NoTunnel, injector.UnknownTunnel, injector.TunnelSelectsNotPod, injector.TunnelDeleting, injector.TunnelNotAccepted:
		return true
	}
	return d.Outcome == injector.Skip
}

func gatherTunnels(ctx context.Context, r client.Reader, in *injector.Input, namespace string) error {
	ns := &corev1.Namespace{}
	// Without deep copies: the injector changes nothing of its input.
	if err := r.Get(ctx, client.ObjectKey{Name: namespace}, ns, &client.GetOptions{UnsafeDisableDeepCopy: ptr.To(true)}); err != nil {
		return fmt.Errorf("read namespace %s: %w", namespace, err)
	}
	var tunnels v1alpha1.TenantTunnelList
	if err := r.List(ctx, &tunnels, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list tunnels of namespace %s: %w", namespace, err)
	}
	in.Namespace, in.Tunnels = ns, tunnels.Items
	return nil
}

func gatherServices(ctx context.Context, r client.Reader, in *injector.Input, namespace string) error {
	var services corev1.ServiceList
	if err := r.List(ctx, &services, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list services of namespace %s: %w", namespace, err)
	}
	in.Services = services.Items
	return nil
}
