package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/test/kit"
)

// All of it is deleted at once, in the order of the file, with tunnels in use: nothing gets stuck, nothing of ours is left in the cluster
// or in tenants' namespaces, and these go on as namespaces that nobody asks about. Installed again, it works.
func TestUninstall(t *testing.T) { // alone: for a while there is no operator
	kit.NeedNodes(t) // on somebody's cluster it would delete his tunnels
	n := cluster.Namespace(t)
	t.Cleanup(func() { // for the tests that follow, whatever becomes of this one
		if err := cluster.Install(context.Background()); err != nil {
			t.Errorf("install again: %v", err)
		}
	})
	n.Tunnel("main", kit.Exposing("web"), func(s *v1alpha1.TenantTunnelSpec) { s.Gateway = &v1alpha1.Gateway{Replicas: 1} })
	n.Create(&v1alpha1.TunnelPeer{ObjectMeta: metav1.ObjectMeta{Name: "laptop"},
		Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main", PublicKey: key.NewPrivate().Public().String()}})
	server := web(n, 1)[0]
	n.Create(kit.Pod("client"))
	n.WaitReady("client")
	n.EventuallyApp("client", "get", "http://web")
	activeGateway(n, "")

	out, err := exec.CommandContext(t.Context(), "kubectl", "delete", "--timeout=3m", "-f", filepath.Join("..", "..", "manifests", "install.yaml")).CombinedOutput() //nolint:gosec // a test
	if err != nil {
		t.Fatalf("kubectl delete: %v\n%s", err, out)
	}
	kit.Eventually(t, kit.Deadline, "end of everything of ours", func() error { return leftovers(t.Context()) })
	n.Create(kit.Pod("after"))
	if p := n.WaitReady("after")[0]; kit.IsInjected(&p) {
		t.Error("somebody injects pods still")
	}
	n.Read(server.Name, &server)
	if !kit.IsReady(&server) || kit.SidecarStatus(&server).RestartCount > 0 {
		t.Errorf("a pod that was there did not go on: %s", kit.Describe(&server))
	}
	n.Remove(&server)
	n.WaitGone(&server)
	for _, p := range n.WaitRollout("web") {
		if kit.IsInjected(&p) {
			t.Error("the new pod has a sidecar")
		}
	}
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	if err := n.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, kit.Deadline, "end of the namespace", func() error {
		if err := n.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			return errorf("it is there: %v, %v", o.Status.Conditions, err)
		}
		return nil
	})

	if err := cluster.Install(t.Context()); err != nil {
		t.Fatalf("install again: %v", err)
	}
	again := cluster.Namespace(t)
	again.Tunnel("main", kit.Exposing("web"))
	web(again, 1)
	again.Create(kit.Pod("client"))
	again.WaitReady("client")
	again.EventuallyApp("client", "get", "http://web")
}

// leftovers says which objects of ours there are, of any kind and anywhere. Events are not looked at: they end by themselves.
func leftovers(ctx context.Context) error {
	groups, err := cluster.Kube.Discovery().ServerPreferredResources()
	if err != nil {
		return fmt.Errorf("list the kinds of objects: %w", err)
	}
	var left []string
	for _, group := range groups {
		gv, err := schema.ParseGroupVersion(group.GroupVersion)
		if err != nil {
			return err
		}
		for _, r := range group.APIResources {
			if gv.Group == v1alpha1.GroupVersion.Group {
				left = append(left, "kind "+r.Kind)
			}
			if !slices.Contains(r.Verbs, "list") || r.Kind == "Event" {
				continue
			}
			found, err := oursOf(ctx, gv.WithKind(r.Kind))
			if err != nil {
				return err
			}
			left = append(left, found...)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left: %s", strings.Join(left, ", "))
	}
	return nil
}

func oursOf(ctx context.Context, kind schema.GroupVersionKind) ([]string, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(kind)
	if err := cluster.List(ctx, &list); apierrors.IsNotFound(err) {
		return nil, nil // it went meanwhile
	} else if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Kind, err)
	}
	var out []string
	for _, o := range list.Items {
		owned := slices.ContainsFunc(o.OwnerReferences, func(r metav1.OwnerReference) bool {
			return strings.HasPrefix(r.APIVersion, v1alpha1.GroupVersion.Group+"/")
		})
		if owned || strings.HasPrefix(o.Name, "tenantwire") || strings.HasSuffix(o.Name, v1alpha1.GroupVersion.Group) ||
			o.Namespace == kit.SystemNamespace || o.Labels[tenant.LabelManagedBy] == tenant.ManagedBy {
			out = append(out, fmt.Sprintf("%s %s/%s", kind.Kind, o.Namespace, o.Name))
		}
	}
	return out, nil
}
