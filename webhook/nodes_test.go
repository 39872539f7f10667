package webhook

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodeList is a cluster's nodes; nil cannot be read.
type nodeList struct {
	client.Reader
	nodes []corev1.Node
	reads int
}

func (n *nodeList) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	n.reads++
	if n.nodes == nil {
		return errors.New("not now")
	}
	list.(*corev1.NodeList).Items = n.nodes
	return nil
}

func capable() corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "capable"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KernelVersion: "6.12.0"},
		RuntimeHandlers: []corev1.NodeRuntimeHandler{{Features: &corev1.NodeRuntimeHandlerFeatures{UserNamespaces: ptr.To(true)}}}}}
}

// TestNodesAreLookedAtNowAndThen: not for every pod, and what cannot be read has nothing.
func TestNodesAreLookedAtNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &nodeList{}
		f := &nodeFeatures{cached: n}
		look := func(want bool, reads int) {
			t.Helper()
			for range 3 {
				if got := f.userNamespaces(t.Context()); got != want || n.reads != reads {
					t.Errorf("%t after %d reads, want %t after %d", got, n.reads, want, reads)
				}
			}
		}
		look(false, 1)
		n.nodes = []corev1.Node{capable()}
		look(false, 1)
		time.Sleep(nodesInterval)
		look(true, 2)
		n.nodes = append(n.nodes, corev1.Node{})
		time.Sleep(nodesInterval)
		look(false, 3)
	})
}

// TestUserNamespaceByNodes: the same pod gets a user namespace in a cluster whose nodes have them, and none in others.
func TestUserNamespaceByNodes(t *testing.T) {
	for name, nodes := range map[string]*nodeFeatures{
		"capable":   {cached: &nodeList{nodes: []corev1.Node{capable()}}},
		"incapable": {cached: &nodeList{nodes: []corev1.Node{{}}}},
		"ignored":   nil,
	} {
		h, _ := newHandler(t, []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, nil)
		h.nodes = nodes
		r := h.Handle(t.Context(), createPod(t, nil))
		if got := strings.Contains(string(r.Patch), `/spec/hostUsers`); !r.Allowed || got != (name == "capable") {
			t.Errorf("%s: allowed %t, a user namespace %t", name, r.Allowed, got)
		}
	}
}
