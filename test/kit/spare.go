package kit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Spare are nodes of a test's own: what it does to them nobody else notices, as long as the test runs alone.
type Spare struct {
	c     *Cluster
	t     T
	home  []string // the nodes that were there
	Nodes []string // the new ones
}

// AddNodes joins nodes to the cluster and has new pods go nowhere else. When the test ends, the operator is installed as it was, on the
// nodes that were there, and the new ones are removed. So the test must not be parallel, and make its namespaces afterwards.
func (c *Cluster) AddNodes(t T, count int) *Spare {
	t.Helper()
	NeedNodes(t)
	s := &Spare{c: c, t: t}
	var l corev1.NodeList
	if err := c.List(t.Context(), &l); err != nil {
		t.Fatalf("list nodes: %v", err)
	}
	for i := range l.Items {
		s.home = append(s.home, l.Items[i].Name)
	}
	t.Cleanup(func() {
		if err := s.remove(context.Background()); err != nil {
			t.Errorf("remove nodes: %v", err)
		}
	})
	for range count {
		out, err := script(t.Context(), "add-node.sh").Output()
		if err != nil {
			t.Fatalf("add a node: %v", err)
		}
		s.Nodes = append(s.Nodes, strings.TrimSpace(string(out)))
	}
	for _, node := range s.home {
		s.Cordon(node, true)
	}
	return s
}

// Home is a node that was there before.
func (s *Spare) Home() string { return s.home[0] }

// Cordon keeps new pods from a node, or lets them there again.
func (s *Spare) Cordon(node string, on bool) {
	s.t.Helper()
	if err := s.cordon(s.t.Context(), node, on); err != nil {
		s.t.Fatalf("%v", err)
	}
}

func (s *Spare) cordon(ctx context.Context, node string, on bool) error {
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, on))
	if err := s.c.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, patch); err != nil {
		return fmt.Errorf("cordon node %s: %w", node, err)
	}
	return nil
}

// Link cuts a node off from everything else, or ends that.
func (s *Spare) Link(node, state string) {
	s.t.Helper()
	if out, err := script(s.t.Context(), "node-link.sh", node, state).CombinedOutput(); err != nil {
		s.t.Fatalf("link of %s %s: %v: %s", node, state, err, out)
	}
}

func (s *Spare) remove(ctx context.Context) error {
	for _, node := range s.home {
		if err := s.cordon(ctx, node, false); err != nil {
			return err
		}
	}
	for _, node := range s.Nodes {
		_ = script(ctx, "node-link.sh", node, "up").Run()
		if err := s.cordon(ctx, node, true); err != nil {
			return err
		}
	}
	if err := s.c.Install(ctx); err != nil {
		return err
	}
	if err := Poll(ctx, Deadline, func() error { return s.empty(ctx) }); err != nil {
		s.t.Logf("pods go with their node: %v", err)
	}
	for _, node := range s.Nodes {
		if out, err := script(ctx, "remove-node.sh", node).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// empty says which pods are on the new nodes, but those that are on every node.
func (s *Spare) empty(ctx context.Context) error {
	var l corev1.PodList
	if err := s.c.List(ctx, &l); err != nil {
		return err
	}
	for i := range l.Items {
		if p := &l.Items[i]; slices.Contains(s.Nodes, p.Spec.NodeName) && p.Namespace != "kube-system" {
			return fmt.Errorf("%s/%s is on %s", p.Namespace, p.Name, p.Spec.NodeName)
		}
	}
	return nil
}

// MayEvict is the error with which the API server would refuse to evict a pod.
func (n *Namespace) MayEvict(p *corev1.Pod) error {
	return n.Kube.PolicyV1().Evictions(n.Name).Evict(n.T.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: n.Name, Name: p.Name},
		DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}})
}

// Evict asks the API server to end pods, as kubectl drain does.
func (n *Namespace) Evict(pods ...corev1.Pod) {
	n.T.Helper()
	for _, p := range pods {
		err := n.Kube.PolicyV1().Evictions(n.Name).Evict(n.T.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: n.Name, Name: p.Name}})
		if err != nil {
			n.T.Fatalf("evict %s: %v", p.Name, err)
		}
	}
}
