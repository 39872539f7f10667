package controller

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The operator reads its own certificate and no other Secret, nowhere.
func TestOperatorReadsNoSecrets(t *testing.T) {
	needCluster(t)
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	ns := namespace(t)
	for _, where := range []string{ns, operatorNamespace} {
		must(t, cluster.admin.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: where, Name: "private"}}))
		if err := operator.Get(t.Context(), client.ObjectKey{Namespace: where, Name: "private"}, &corev1.Secret{}); !apierrors.IsForbidden(err) {
			t.Errorf("get a Secret in %s: %v", where, err)
		}
		if err := operator.List(t.Context(), &corev1.SecretList{}, client.InNamespace(where)); !apierrors.IsForbidden(err) {
			t.Errorf("list the Secrets of %s: %v", where, err)
		}
		if err := operator.Patch(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: where, Name: "private"}},
			client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`))); !apierrors.IsForbidden(err) {
			t.Errorf("patch a Secret in %s, which would return it: %v", where, err)
		}
	}
	must(t, operator.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: ServingCertSecret}, &corev1.Secret{}))
	for what, o := range map[string]client.Object{
		"another ConfigMap": &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "kube-root-ca.crt"}},
		"a pod":             &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "x"}},
		"a tunnel":          &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "x"}},
	} {
		if err := operator.Delete(t.Context(), o); !apierrors.IsForbidden(err) {
			t.Errorf("delete %s: %v", what, err)
		}
	}
}

// The cache holds injected pods alone, and of these only what is decided on; one ConfigMap a namespace; one Secret.
func TestCacheIsBounded(t *testing.T) {
	r := start(t)
	ns := namespace(t)
	makeTunnel(t, ns, "{}")
	in := makePod(t, ns, "in", "main", map[string]string{v1alpha1.AnnotationExpose: "22", "huge": "value"})
	out := makePod(t, ns, "out", "", nil)
	must(t, cluster.admin.Patch(t.Context(), out, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`))))
	must(t, cluster.admin.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "other"}}))
	getMember(t, in)
	var pods corev1.PodList
	eventually(t, func() error { return r.cached.List(t.Context(), &pods, client.InNamespace(ns)) })
	if len(pods.Items) != 1 || pods.Items[0].Name != "in" {
		t.Fatalf("cached pods: %v", pods.Items)
	}
	p := pods.Items[0]
	if p.Spec.Containers[0].Image != "" || p.ManagedFields != nil || p.Annotations["huge"] != "" || p.Annotations[v1alpha1.AnnotationExpose] != "22" || p.Spec.Containers[0].Ports[0].ContainerPort != 8080 {
		t.Errorf("cached pod %+v", p)
	}
	eventually(t, func() error {
		return r.cached.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: tenant.CAConfigMap}, &corev1.ConfigMap{})
	})
	if err := r.cached.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "other"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("another ConfigMap from the cache: %v", err)
	}
	must(t, r.cached.Get(t.Context(), client.ObjectKey{Namespace: operatorNamespace, Name: ServingCertSecret}, &corev1.Secret{}))
}

// A member of the name that the cache does not know of, with another pod's key, is never handed to the new pod.
func TestUnknownMemberIsNotTakenOver(t *testing.T) {
	needCluster(t)
	operator, err := client.New(cluster.operator, client.Options{Scheme: testScheme()})
	must(t, err)
	ns := namespace(t)
	old := parse(t, "TunnelMember", ns, "db-0", "{tunnel: main, podUID: old, addresses: ['fd00::1']}")
	must(t, cluster.admin.Create(t.Context(), old))
	must(t, cluster.admin.Status().Patch(t.Context(), old, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"publicKey":"`+goodKey+`"}}`))))
	r := &tunnelReconciler{client: operator, memory: newMemory(time.Now)}
	rec := r.memory.of(client.ObjectKey{Namespace: ns, Name: "main"})
	plan := tenant.Plan{Apply: []tenant.DesiredMember{{Name: "db-0", PodUID: "new", Tunnel: "main", Addresses: []string{"fd00::2"}}}}
	if err := r.apply(t.Context(), ns, plan, rec); err == nil {
		t.Error("no error although the name was taken")
	}
	must(t, r.apply(t.Context(), ns, plan, rec))
	var m v1alpha1.TunnelMember
	must(t, cluster.admin.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "db-0"}, &m))
	if m.Spec.PodUID != "new" || m.Status.PublicKey != "" {
		t.Errorf("member of pod %s with key %q", m.Spec.PodUID, m.Status.PublicKey)
	}
	// And one that took the name after we looked is not changed.
	plan.Apply[0].Existing = "11111111-1111-1111-1111-111111111111"
	if err := r.apply(t.Context(), ns, plan, rec); err == nil {
		t.Error("applied to a member of another UID")
	}
}
