package webhook

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
)

// Which nodes there are says whether pods can have user namespaces.
//
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch

// nodesInterval is how often nodes are looked at: a node that joined meanwhile is as good as one that joins right after.
const nodesInterval = 10 * time.Second

// nodeFeatures is what every node has, from the manager's cache.
type nodeFeatures struct {
	cached client.Reader

	mu   sync.Mutex
	at   time.Time
	have bool
}

// userNamespaces says whether every node can give a pod one. Nodes that cannot be read have nothing.
func (f *nodeFeatures) userNamespaces(ctx context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.at) < nodesInterval {
		return f.have
	}
	var nodes corev1.NodeList
	err := f.cached.List(ctx, &nodes, client.UnsafeDisableDeepCopy)
	f.have = err == nil && injector.UserNamespacesOn(nodes.Items)
	f.at = time.Now()
	return f.have
}
