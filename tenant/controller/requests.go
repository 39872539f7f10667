package controller

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// enqueue asks for a reconcile of what an object belongs to, before and after a change. Requests for one thing within the delay
// become one: the queue keeps the earliest.
func enqueue(delay time.Duration, of func(client.Object) types.NamespacedName) handler.EventHandler {
	add := func(q workqueue.TypedRateLimitingInterface[reconcile.Request], objects ...client.Object) {
		for _, o := range objects {
			if name := of(o); name.Name != "" {
				q.AddAfter(reconcile.Request{NamespacedName: name}, delay)
			}
		}
	}
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc:  func(_ context.Context, e event.CreateEvent, q queue) { add(q, e.Object) },
		UpdateFunc:  func(_ context.Context, e event.UpdateEvent, q queue) { add(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc:  func(_ context.Context, e event.DeleteEvent, q queue) { add(q, e.Object) },
		GenericFunc: func(_ context.Context, e event.GenericEvent, q queue) { add(q, e.Object) },
	}
}

func self(o client.Object) types.NamespacedName { return client.ObjectKeyFromObject(o) }

// namespaceOf is the key of the CA controller: a namespace is its own name.
func namespaceOf(o client.Object) types.NamespacedName {
	return types.NamespacedName{Name: o.GetNamespace()}
}

func tunnelOfPod(o client.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetLabels()[v1alpha1.LabelTunnel]}
}

func tunnelOfMember(o client.Object) types.NamespacedName {
	m, _ := o.(*v1alpha1.TunnelMember)
	return types.NamespacedName{Namespace: m.Namespace, Name: m.Spec.Tunnel}
}

func tunnelOfPeer(o client.Object) types.NamespacedName {
	p, _ := o.(*v1alpha1.TunnelPeer)
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Spec.Tunnel}
}

// What is worth a reconcile. Our own status writes are not, and neither is what kubelets write all day.
var (
	specChanged      = builder.WithPredicates(predicate.GenerationChangedPredicate{})
	existenceChanged = updates(func(_, _ client.Object) bool { return false })
	podChanged       = updates(podMatters)
	keyChanged       = updates(keyMatters)
	peerChanged      = updates(peerMatters)
)

func updates(matter func(before, after client.Object) bool) builder.Predicates {
	return builder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return matter(e.ObjectOld, e.ObjectNew) }})
}

func podMatters(before, after client.Object) bool {
	a, aok := before.(*corev1.Pod)
	b, bok := after.(*corev1.Pod)
	return !aok || !bok || a.UID != b.UID || a.Status.Phase != b.Status.Phase ||
		a.Labels[v1alpha1.LabelTunnel] != b.Labels[v1alpha1.LabelTunnel] || a.Labels[v1alpha1.LabelRole] != b.Labels[v1alpha1.LabelRole] ||
		a.Annotations[v1alpha1.AnnotationExpose] != b.Annotations[v1alpha1.AnnotationExpose]
}

func keyMatters(before, after client.Object) bool {
	a, aok := before.(*v1alpha1.TunnelMember)
	b, bok := after.(*v1alpha1.TunnelMember)
	return !aok || !bok || a.Status.PublicKey != b.Status.PublicKey || a.Spec.Tunnel != b.Spec.Tunnel || !slices.Equal(a.Spec.Addresses, b.Spec.Addresses)
}

// peerMatters: what a peer was given is no Service's to have, and a policy picks peers by their labels.
func peerMatters(before, after client.Object) bool {
	a, aok := before.(*v1alpha1.TunnelPeer)
	b, bok := after.(*v1alpha1.TunnelPeer)
	return !aok || !bok || a.Generation != b.Generation || !slices.Equal(a.Status.Addresses, b.Status.Addresses) || !maps.Equal(a.Labels, b.Labels)
}
