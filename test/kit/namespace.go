package kit

import (
	"context"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Namespace is one tenant of a test.
type Namespace struct {
	*Cluster
	T    T
	Name string
}

// NamespaceOption changes a namespace before it is made.
type NamespaceOption func(*corev1.Namespace)

// PodSecurity enforces a level other than restricted.
func PodSecurity(level string) NamespaceOption {
	return func(n *corev1.Namespace) { n.Labels["pod-security.kubernetes.io/enforce"] = level }
}

// NotOptedIn leaves the opt-in label out.
func NotOptedIn() NamespaceOption {
	return func(n *corev1.Namespace) { delete(n.Labels, v1alpha1.LabelInject) }
}

// Namespace makes a namespace that is opted in and enforces Pod Security restricted. It is removed when the test ends; when the test
// failed, what can be said of it is logged before.
func (c *Cluster) Namespace(t T, options ...NamespaceOption) *Namespace {
	t.Helper()
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: nameOf(t), Labels: map[string]string{
		v1alpha1.LabelInject: v1alpha1.InjectEnabled, "pod-security.kubernetes.io/enforce": "restricted"}}}
	if everyDatapath != "" {
		PodSecurity("privileged")(o)
	}
	for _, f := range options {
		f(o)
	}
	if err := c.Create(t.Context(), o); err != nil {
		t.Fatalf("create namespace: %v", err)
	}
	n := &Namespace{Cluster: c, T: t, Name: o.Name}
	t.Cleanup(func() {
		ctx := context.Background()
		if t.Failed() {
			n.Dump(ctx)
		}
		if err := client.IgnoreNotFound(c.Delete(ctx, o)); err != nil {
			t.Errorf("delete namespace %s: %v", o.Name, err)
		}
	})
	Eventually(t, Deadline, "service account of "+o.Name, func() error { // without it there are no pods
		return c.Get(t.Context(), client.ObjectKey{Namespace: o.Name, Name: "default"}, &corev1.ServiceAccount{})
	})
	return n
}

// nameOf turns a test's name into the beginning of a namespace's.
func nameOf(t T) string {
	s := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimPrefix(t.Name(), "Test")))
	if len(s) > 40 {
		s = s[:40]
	}
	return "t-" + strings.Trim(s, "-") + "-"
}

// Label sets labels of the namespace; an empty value removes one.
func (n *Namespace) Label(labels map[string]string) {
	n.T.Helper()
	o := &corev1.Namespace{}
	if err := n.Get(n.T.Context(), client.ObjectKey{Name: n.Name}, o); err != nil {
		n.T.Fatalf("get namespace %s: %v", n.Name, err)
	}
	before := o.DeepCopy()
	maps.Copy(o.Labels, labels)
	maps.DeleteFunc(o.Labels, func(_, v string) bool { return v == "" })
	if err := n.Patch(n.T.Context(), o, client.MergeFrom(before)); err != nil {
		n.T.Fatalf("label namespace %s: %v", n.Name, err)
	}
}

// Create makes objects in the namespace.
func (n *Namespace) Create(objects ...client.Object) {
	n.T.Helper()
	for _, o := range objects {
		if err := n.TryCreate(o); err != nil {
			n.T.Fatalf("create %T %s/%s: %v", o, n.Name, o.GetName(), err)
		}
	}
}

// TryCreate makes an object in the namespace and returns what the API server says.
func (n *Namespace) TryCreate(o client.Object, options ...client.CreateOption) error {
	o.SetNamespace(n.Name)
	return n.Cluster.Create(n.T.Context(), o, options...)
}

// Read gets an object by name.
func (n *Namespace) Read(name string, into client.Object) {
	n.T.Helper()
	if err := n.Get(n.T.Context(), client.ObjectKey{Namespace: n.Name, Name: name}, into); err != nil {
		n.T.Fatalf("get %T %s/%s: %v", into, n.Name, name, err)
	}
}

// Change reads an object, changes it and writes the difference.
func Change[O client.Object](n *Namespace, name string, o O, change func(O)) {
	n.T.Helper()
	n.Read(name, o)
	before := o.DeepCopyObject().(client.Object)
	change(o)
	if err := n.Patch(n.T.Context(), o, client.MergeFrom(before)); err != nil {
		n.T.Fatalf("patch %T %s/%s: %v", o, n.Name, name, err)
	}
}

// Remove deletes an object; WaitGone waits for its end.
func (n *Namespace) Remove(o client.Object, options ...client.DeleteOption) {
	n.T.Helper()
	o.SetNamespace(n.Name)
	if err := n.Delete(n.T.Context(), o, options...); err != nil {
		n.T.Fatalf("delete %T %s/%s: %v", o, n.Name, o.GetName(), err)
	}
}

// WaitGone waits until an object, or this one of its name, is no more.
func (n *Namespace) WaitGone(o client.Object) {
	n.T.Helper()
	uid := o.GetUID()
	Eventually(n.T, Deadline, fmt.Sprintf("end of %T %s/%s", o, n.Name, o.GetName()), func() error {
		err := n.Get(n.T.Context(), client.ObjectKey{Namespace: n.Name, Name: o.GetName()}, o)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case uid != "" && o.GetUID() != uid:
			return nil
		}
		return fmt.Errorf("it is there, deletionTimestamp %v", o.GetDeletionTimestamp())
	})
}

// Tunnel makes a TenantTunnel and waits until it is accepted.
func (n *Namespace) Tunnel(name string, change ...func(*v1alpha1.TenantTunnelSpec)) *v1alpha1.TenantTunnel {
	n.T.Helper()
	t := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TenantTunnelSpec{Datapath: everyDatapath}}
	for _, f := range change {
		f(&t.Spec)
	}
	n.Create(t)
	Eventually(n.T, Deadline, fmt.Sprintf("tunnel %s/%s accepted", n.Name, name), func() error {
		if err := n.Get(n.T.Context(), client.ObjectKeyFromObject(t), t); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionAccepted); c == nil || c.Status != metav1.ConditionTrue {
			return fmt.Errorf("condition %+v", c)
		}
		// The webhook's cache may lag behind what we see by the watch's latency; the CA has to be there for pods to start.
		return n.Get(n.T.Context(), client.ObjectKey{Namespace: n.Name, Name: CAConfigMap}, &corev1.ConfigMap{})
	})
	return t
}

// CAConfigMap is what the operator writes into a namespace with a tunnel.
const CAConfigMap = "tenantwire-ca"

// Exposing carries Services by name.
func Exposing(services ...string) func(*v1alpha1.TenantTunnelSpec) {
	return func(s *v1alpha1.TenantTunnelSpec) {
		for _, name := range services {
			s.Expose = append(s.Expose, v1alpha1.ExposedService{Service: name})
		}
	}
}

// Member waits until a pod's member is ready and returns it.
func (n *Namespace) Member(pod string) *v1alpha1.TunnelMember {
	n.T.Helper()
	m := &v1alpha1.TunnelMember{}
	Eventually(n.T, Deadline, fmt.Sprintf("member %s/%s ready", n.Name, pod), func() error {
		if err := n.Get(n.T.Context(), client.ObjectKey{Namespace: n.Name, Name: pod}, m); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionReady) {
			return fmt.Errorf("status %+v", m.Status)
		}
		return nil
	})
	return m
}
