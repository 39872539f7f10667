package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/test/kit"
)

// Breaks when the sidecar or the operator asks for what Pod Security "restricted" forbids. The negative controls show that the
// level is enforced where the pods are.
func TestInvariant6InjectedPodsAreAdmittedUnderRestricted(t *testing.T) {
	t.Parallel()
	n := cluster.Namespace(t)
	n.Tunnel("main")
	n.Create(kit.Pod("member"))
	member := n.WaitReady("member")[0]
	if !kit.IsInjected(&member) {
		t.Error("the pod has no sidecar: the test shows nothing")
	}
	privileged := kit.Pod("privileged")
	privileged.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	if err := n.TryCreate(privileged); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("a pod with NET_ADMIN: %v, want a violation of Pod Security", err)
	}

	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	var ns corev1.Namespace
	if err := cluster.Get(t.Context(), client.ObjectKey{Name: kit.SystemNamespace}, &ns); err != nil {
		t.Fatal(err)
	}
	if level := ns.Labels["pod-security.kubernetes.io/enforce"]; level != "restricted" {
		t.Errorf("the operator's namespace enforces %q, want restricted", level)
	}
	running := 0
	for _, p := range system.Pods("") {
		if kit.IsReady(&p) {
			running++
		}
	}
	if running == 0 {
		t.Error("no pod of the operator is ready")
	}
	outside := kit.Pod("privileged")
	outside.Spec.HostNetwork = true
	if err := system.TryCreate(outside, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("a pod in the node's network beside the operator: %v, want a violation of Pod Security", err)
	}
}

// Breaks when an operator that is down lets a pod of an opted-in namespace run without its sidecar (failurePolicy, selectors), or
// keeps any other namespace, or itself, from creating pods.
func TestAvailabilityWithoutTheOperatorOnlyOptedInNamespacesAreClosed(t *testing.T) {
	n := cluster.Namespace(t)
	n.Tunnel("main", kit.Exposing("web"))
	d := kit.Deployment("web", 1, "serve", "http=:8080")
	kit.Declare(&d.Spec.Template.Spec, "8080")
	n.Create(kit.Service("web", "80:8080"), d)
	n.WaitRollout("web")
	traffic := n.StartRequests("client", 100*time.Millisecond, "http://web/")
	bystander := cluster.Namespace(t, kit.NotOptedIn())
	invOperatorDown(t)

	for _, dry := range [][]client.CreateOption{nil, {client.DryRunAll}} {
		if err := n.TryCreate(kit.Pod("late"), dry...); err == nil || !strings.Contains(err.Error(), "pods.tenantwire.dev") {
			t.Errorf("a pod of an opted-in namespace: %v, want a refusal that names the webhook", err)
		}
	}
	optOut := kit.Pod("late")
	optOut.Annotations = map[string]string{"tenantwire.dev/inject": "false"}
	if err := n.TryCreate(optOut); err == nil {
		t.Error("a pod that opts out was admitted though nobody could check whether it may")
	}
	bystander.Create(kit.Pod("ordinary"))
	bystander.WaitReady("ordinary")
	for _, name := range []string{"kube-system", "default", kit.SystemNamespace} {
		other := &kit.Namespace{Cluster: cluster, T: t, Name: name}
		if err := other.TryCreate(kit.Pod("tenantwire-e2e-ordinary"), client.DryRunAll); err != nil {
			t.Errorf("a pod of namespace %s: %v", name, err)
		}
	}
	traffic.WaitMore(10)
	traffic.MustBeWhole()

	invOperatorUp(t)
	n.Create(kit.Pod("late"))
	if late := n.WaitReady("late")[0]; !kit.IsInjected(&late) {
		t.Error("a pod made after the operator came back has no sidecar")
	}
}

// invOperatorDown takes every replica of the operator away until invOperatorUp, or the end of the test.
func invOperatorDown(t *testing.T) {
	t.Helper()
	system := &kit.Namespace{Cluster: cluster, T: t, Name: kit.SystemNamespace}
	t.Cleanup(func() { // whatever became of the test
		if err := cluster.Install(context.Background()); err != nil {
			t.Errorf("bring the operator back: %v", err)
		}
	})
	kit.Change(system, kit.OperatorName, &appsv1.Deployment{}, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
	kit.Eventually(t, kit.Deadline, "end of the operator's pods", func() error {
		var l corev1.PodList
		if err := cluster.List(t.Context(), &l, client.InNamespace(kit.SystemNamespace), client.MatchingLabels{"app.kubernetes.io/name": kit.OperatorName}); err != nil {
			return err
		}
		if len(l.Items) > 0 {
			return errorf("%d are there", len(l.Items))
		}
		return nil
	})
}

func invOperatorUp(t *testing.T) {
	t.Helper()
	if err := cluster.Install(t.Context()); err != nil {
		t.Fatalf("bring the operator back: %v", err)
	}
}
