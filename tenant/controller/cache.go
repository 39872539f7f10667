package controller

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/tracing"
)

// Names of the operator's own objects, as the manifests have them.
const (
	ServingCertSecret = "tenantwire-serving-cert"
	LeaderElectionID  = "tenantwire-operator"
)

// CacheOptions bounds what the operator holds in memory and asks for: injected pods alone and of these only what is decided on,
// one ConfigMap a namespace, and no Secret but the serving certificate.
func CacheOptions(operatorNamespace string) cache.Options {
	injected, err := labels.NewRequirement(v1alpha1.LabelTunnel, selection.Exists, nil)
	if err != nil {
		panic("controller: the label's name is not valid: " + err.Error()) // unreachable: it is a constant
	}
	named := func(name string) fields.Selector { return fields.OneTermEqualSelector(metav1.ObjectNameField, name) }
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&appsv1.Deployment{}: {Label: labels.SelectorFromSet(labels.Set{v1alpha1.LabelRole: v1alpha1.LabelRoleGateway, labelManagedBy: managedBy})},
			&corev1.Pod{}:        {Label: labels.NewSelector().Add(*injected), Transform: trimPod},
			&corev1.Node{}:       {Transform: trimNode},
			&corev1.ConfigMap{}:  {Field: named(tenant.CAConfigMap)},
			&corev1.Secret{}: {Namespaces: map[string]cache.Config{
				operatorNamespace: {FieldSelector: named(ServingCertSecret)},
			}},
		},
	}
}

// trimPod keeps of a cached pod what is read: who it is, its ports, its phase and its addresses. A pod is ten kilobytes and more
// otherwise, times every injected pod of the cluster.
func trimPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil // a tombstone
	}
	trimmed := &corev1.Pod{
		TypeMeta: pod.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion, Labels: pod.Labels,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
		},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs},
	}
	for _, name := range []string{v1alpha1.AnnotationExpose, v1alpha1.AnnotationTunnel, v1alpha1.AnnotationCarry, v1alpha1.AnnotationTrace} {
		if value, ok := pod.Annotations[name]; ok && (name != v1alpha1.AnnotationTrace || len(value) <= tracing.MaxParent) {
			if trimmed.Annotations == nil {
				trimmed.Annotations = make(map[string]string, 1)
			}
			trimmed.Annotations[name] = value
		}
	}
	trimmed.Spec.ServiceAccountName = pod.Spec.ServiceAccountName
	trimmed.Spec.NodeName = pod.Spec.NodeName
	trimmed.Spec.Containers = trimContainers(pod.Spec.Containers)
	trimmed.Spec.InitContainers = trimContainers(pod.Spec.InitContainers)
	return trimmed, nil
}

// trimNode keeps of a node what it is and can: it is as large as a pod otherwise, and changes every few minutes.
func trimNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil // a tombstone
	}
	trimmed := &corev1.Node{TypeMeta: n.TypeMeta, ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion}}
	if os, ok := n.Labels[corev1.LabelOSStable]; ok {
		trimmed.Labels = map[string]string{corev1.LabelOSStable: os}
	}
	trimmed.Status.NodeInfo.KernelVersion = n.Status.NodeInfo.KernelVersion
	trimmed.Status.RuntimeHandlers = n.Status.RuntimeHandlers
	return trimmed, nil
}

func trimContainers(containers []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, 0, len(containers))
	for i := range containers {
		c := &containers[i]
		out = append(out, corev1.Container{Name: c.Name, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return out
}
