package coordinator

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// WatchPods does what WatchChanges does for the cache of pods that say that they go through a gateway.
func WatchPods(ctx context.Context, c cache.Cache, changed func(namespace string)) error {
	return watchObjects(ctx, c, changed, &corev1.Pod{})
}

// podMatters says whether a change of a pod is one of whether and from where it goes through the gateway; of other objects every change is.
func podMatters(was, is any) bool {
	a, okA := was.(*corev1.Pod)
	b, okB := is.(*corev1.Pod)
	return !okA || !okB || a.UID != b.UID || a.Status.Phase != b.Status.Phase || !slices.Equal(a.Status.PodIPs, b.Status.PodIPs) ||
		a.Labels[v1alpha1.LabelTunnel] != b.Labels[v1alpha1.LabelTunnel]
}

// plainPods are those of a tunnel's namespace, where its gateway serves any.
func (s *ClusterStore) plainPods(ctx context.Context, t *v1alpha1.TenantTunnel) ([]corev1.Pod, error) {
	if s.Pods == nil || !tenant.ServesPlainPods(t) {
		return nil, nil
	}
	var pods corev1.PodList
	if err := s.Pods.List(ctx, &pods, client.InNamespace(t.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the plain pods of namespace %s: %w", t.Namespace, err)
	}
	return pods.Items, nil
}
