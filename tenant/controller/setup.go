package controller

import (
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The label that tells our ConfigMaps from a tenant's own of the same name.
const (
	labelManagedBy = tenant.LabelManagedBy
	managedBy      = tenant.ManagedBy
)

// Options is what the controllers need beside the manager.
type Options struct {
	// CABundle returns the PEM certificates that members trust; empty while there are none yet.
	CABundle func() []byte
	// CAChanged fires when CABundle returns something else. What the events hold does not matter.
	CAChanged <-chan event.GenericEvent
	// Version is the operator's, for tunnels' statuses; empty: they do not say.
	Version string
	// Pods is what the pods that we make have in common with those that the webhook changes.
	Pods injector.Config
	// Debounce is how long a tunnel's changes are collected before they are acted on; 0: 50 ms.
	Debounce time.Duration
	// StatusInterval is the least time between two writes of one tunnel's status; 0: 1 s.
	StatusInterval time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Setup registers the controllers with a manager whose cache has CacheOptions and whose scheme knows v1alpha1.
func Setup(mgr ctrl.Manager, o Options) error {
	if o.CABundle == nil {
		return errors.New("set up controllers: Options.CABundle is missing")
	}
	if o.Debounce == 0 {
		o.Debounce = 50 * time.Millisecond
	}
	if o.StatusInterval == 0 {
		o.StatusInterval = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	recorder := mgr.GetEventRecorder("tenantwire-operator")
	if err := setupTunnel(mgr, o, recorder); err != nil {
		return fmt.Errorf("set up the tunnel controller: %w", err)
	}
	if err := setupPeer(mgr, o, recorder); err != nil {
		return fmt.Errorf("set up the peer controller: %w", err)
	}
	if err := setupGateway(mgr, o, recorder); err != nil {
		return fmt.Errorf("set up the gateway controller: %w", err)
	}
	if err := setupCA(mgr, o); err != nil {
		return fmt.Errorf("set up the CA controller: %w", err)
	}
	return nil
}

func setupTunnel(mgr ctrl.Manager, o Options, recorder events.EventRecorder) error {
	return ctrl.NewControllerManagedBy(mgr).Named("tunnel").
		Watches(&v1alpha1.TenantTunnel{}, enqueue(0, self), specChanged).
		Watches(&corev1.Pod{}, enqueue(o.Debounce, tunnelOfPod), podChanged).
		Watches(&v1alpha1.TunnelMember{}, enqueue(o.Debounce, tunnelOfMember)).
		Watches(&v1alpha1.TunnelPeer{}, enqueue(o.Debounce, tunnelOfPeer), peerChanged).
		Watches(&corev1.Service{}, egressTunnels(mgr.GetClient())).
		Watches(&corev1.Namespace{}, tunnelsThere(mgr.GetClient()), levelChanged).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(&tunnelReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: recorder, memory: newMemory(o.Now), options: o})
}

func setupPeer(mgr ctrl.Manager, o Options, recorder events.EventRecorder) error {
	return ctrl.NewControllerManagedBy(mgr).Named("peer").
		Watches(&v1alpha1.TenantTunnel{}, enqueue(0, self), specChanged).
		Watches(&v1alpha1.TunnelPeer{}, enqueue(o.Debounce, tunnelOfPeer), specChanged).
		Watches(&v1alpha1.TunnelMember{}, enqueue(o.Debounce, tunnelOfMember), keyChanged).
		Complete(&peerReconciler{client: mgr.GetClient(), recorder: recorder, now: o.Now})
}

func setupGateway(mgr ctrl.Manager, o Options, recorder events.EventRecorder) error {
	return ctrl.NewControllerManagedBy(mgr).Named("gateway").
		Watches(&v1alpha1.TenantTunnel{}, enqueue(0, self), gatewayChanged).
		Watches(&corev1.Service{}, egressTunnels(mgr.GetClient())).
		Watches(&appsv1.Deployment{}, enqueue(o.Debounce, tunnelOfPod), specChanged).
		Watches(&corev1.Namespace{}, tunnelsThere(mgr.GetClient()), levelChanged).
		Complete(&gatewayReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: recorder, pods: &o.Pods, now: o.Now})
}

func setupCA(mgr ctrl.Manager, o Options) error {
	r := &caReconciler{client: mgr.GetClient(), bundle: o.CABundle}
	b := ctrl.NewControllerManagedBy(mgr).Named("ca").
		Watches(&v1alpha1.TenantTunnel{}, enqueue(0, namespaceOf), existenceChanged).
		Watches(&corev1.ConfigMap{}, enqueue(0, namespaceOf))
	if o.CAChanged != nil {
		b = b.WatchesRawSource(source.Channel(o.CAChanged, r.everyNamespace()))
	}
	return b.Complete(r)
}

// eventType is Normal for what is fine and Warning for the rest.
func eventType(d tenant.Decision) string {
	switch d.Reason {
	case tenant.ReasonAccepted, tenant.ReasonAllReady, tenant.ReasonNoMembers:
		return corev1.EventTypeNormal
	}
	return corev1.EventTypeWarning
}
