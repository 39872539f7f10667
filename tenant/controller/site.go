package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// needsSite says whether it matters where a tunnel's gateway is: Netstack can be had anywhere.
func needsSite(t *v1alpha1.TenantTunnel) bool {
	return t != nil && t.Spec.Gateway != nil && t.Spec.Gateway.Datapath != "" && t.Spec.Gateway.Datapath != v1alpha1.DatapathNetstack
}

// siteOf reads what decides on the datapath of a tunnel's gateway.
func siteOf(ctx context.Context, c client.Reader, t *v1alpha1.TenantTunnel) (at injector.Site, err error) {
	if !needsSite(t) {
		return at, nil
	}
	at.Namespace = &corev1.Namespace{}
	if err := c.Get(ctx, client.ObjectKey{Name: t.Namespace}, at.Namespace); err != nil {
		return at, fmt.Errorf("get namespace %s: %w", t.Namespace, err)
	}
	var nodes corev1.NodeList
	if err := c.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return at, fmt.Errorf("list nodes: %w", err)
	}
	at.UserNamespacesOn = injector.UserNamespacesOn(nodes.Items)
	return at, nil
}

// tunnelsThere asks for a reconcile of a namespace's tunnels for which its Pod Security level matters.
func tunnelsThere(c client.Reader) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, ns client.Object) []reconcile.Request {
		var tunnels v1alpha1.TenantTunnelList
		if err := c.List(ctx, &tunnels, client.InNamespace(ns.GetName()), client.UnsafeDisableDeepCopy); err != nil {
			return nil // the cache is stopping: there is no other way for it to fail
		}
		var requests []reconcile.Request
		for i := range tunnels.Items {
			if t := &tunnels.Items[i]; needsSite(t) {
				requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: t.Namespace, Name: t.Name}})
			}
		}
		return requests
	})
}

var levelChanged = updates(func(before, after client.Object) bool {
	return before.GetLabels()[injector.LevelLabel] != after.GetLabels()[injector.LevelLabel]
})
