package controller

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// PlainPods is a cache of the pods without a sidecar that go through their tunnel's gateway, in either direction, as their label says. It
// is one of its own: of one kind a cache holds what one selector matches, and the manager's holds injected pods.
type PlainPods struct{ cache.Cache }

// NewPlainPods makes the cache and has the manager run it on every replica.
func NewPlainPods(mgr ctrl.Manager) (*PlainPods, error) {
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{&corev1.Pod{}: {
			Label: labels.SelectorFromSet(labels.Set{v1alpha1.LabelViaGateway: v1alpha1.ViaGatewayEnabled}), Transform: trimPlainPod}},
	})
	if err != nil {
		return nil, fmt.Errorf("make a cache of plain pods: %w", err)
	}
	p := &PlainPods{c}
	if err := mgr.Add(p); err != nil {
		return nil, fmt.Errorf("add the cache of plain pods: %w", err)
	}
	return p, nil
}

// GetCache has the manager take it for a cache: nobody is served before it is in step, or gateways would be told of no pods at first.
func (p *PlainPods) GetCache() cache.Cache { return p.Cache }

// trimPlainPod keeps of a pod who it is and where.
func trimPlainPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil // a tombstone
	}
	kept := map[string]string{}
	for _, l := range []string{v1alpha1.LabelViaGateway, v1alpha1.LabelTunnel} {
		if v, ok := pod.Labels[l]; ok {
			kept[l] = v
		}
	}
	return &corev1.Pod{
		TypeMeta: pod.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			Labels: kept},
		Spec:   corev1.PodSpec{HostNetwork: pod.Spec.HostNetwork},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIPs: pod.Status.PodIPs},
	}, nil
}
