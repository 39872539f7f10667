package webhook

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// view is what a decision depends on besides the pod and the Services.
type view struct {
	namespace *corev1.Namespace
	tunnels   []v1alpha1.TenantTunnel
}

// gatherAndDecide decides on what the cache holds. Every decision that leaves the pod outside a tunnel, and those that a younger
// tunnel would change, is made again on what the API server says now. Services come from the cache both times: one that is not
// there yet is treated with the most caution.
func (h *handler) gatherAndDecide(ctx context.Context, in injector.Input, namespace string) (injector.Decision, error) {
	var err error
	if in.Services, err = readServices(ctx, h.cached, namespace); err != nil {
		return injector.Decision{}, err
	}
	in.UserNamespacesOn = h.nodes != nil && h.nodes.userNamespaces(ctx)
	v, err := readView(ctx, h.cached, namespace)
	if err == nil {
		in.Namespace, in.Tunnels = v.namespace, v.tunnels
		if d := injector.Decide(in); !needsLive(d) {
			return d, nil
		}
	} else if !apierrors.IsNotFound(err) {
		return injector.Decision{}, err
	}
	if v, err = h.live.read(ctx, namespace); err != nil {
		return injector.Decision{}, err
	}
	in.Namespace, in.Tunnels = v.namespace, v.tunnels
	return injector.Decide(in), nil
}

func needsLive(d injector.Decision) bool {
	switch d.Reason {
	case injector.NoTunnel, injector.UnknownTunnel, injector.TunnelSelectsNotPod, injector.TunnelDeleting, injector.TunnelNotAccepted, injector.DatapathForbidden:
		return true
	}
	return d.Outcome == injector.Skip
}

func readView(ctx context.Context, r client.Reader, namespace string) (view, error) {
	ns := &corev1.Namespace{}
	// Without deep copies: the injector changes nothing of its input.
	if err := r.Get(ctx, client.ObjectKey{Name: namespace}, ns, &client.GetOptions{UnsafeDisableDeepCopy: ptr.To(true)}); err != nil {
		return view{}, fmt.Errorf("read namespace %s: %w", namespace, err)
	}
	var tunnels v1alpha1.TenantTunnelList
	if err := r.List(ctx, &tunnels, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return view{}, fmt.Errorf("list tunnels of namespace %s: %w", namespace, err)
	}
	return view{ns, tunnels.Items}, nil
}

func readServices(ctx context.Context, r client.Reader, namespace string) ([]corev1.Service, error) {
	var services corev1.ServiceList
	if err := r.List(ctx, &services, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list services of namespace %s: %w", namespace, err)
	}
	return services.Items, nil
}

// liveReader reads views from the API server. However many pods a namespace creates, it is read by one request at a time: those
// that wait share the next one, which starts after all of them came and so cannot miss what was there when they did.
type liveReader struct {
	reader client.Reader

	mu      sync.Mutex
	waiting map[string]*liveRead // by namespace: not started yet
	running map[string]bool
}

type liveRead struct {
	done chan struct{} // closed when view and err are set
	view view
	err  error
}

func newLiveReader(r client.Reader) *liveReader {
	return &liveReader{reader: r, waiting: map[string]*liveRead{}, running: map[string]bool{}}
}

func (l *liveReader) read(ctx context.Context, namespace string) (view, error) {
	l.mu.Lock()
	r, ok := l.waiting[namespace]
	if !ok {
		r = &liveRead{done: make(chan struct{})}
		l.waiting[namespace] = r
		if !l.running[namespace] {
			l.running[namespace] = true
			go l.run(namespace)
		}
	}
	l.mu.Unlock()
	select {
	case <-r.done:
		return r.view, r.err
	case <-ctx.Done():
		return view{}, fmt.Errorf("wait for namespace %s to be read: %w", namespace, ctx.Err())
	}
}

// run reads a namespace until nobody waits for it. A read is shared and therefore outlives the request that asked for it first.
func (l *liveReader) run(namespace string) {
	for {
		l.mu.Lock()
		r, ok := l.waiting[namespace]
		delete(l.waiting, namespace)
		if !ok {
			delete(l.running, namespace)
		}
		l.mu.Unlock()
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		r.view, r.err = readView(ctx, l.reader, namespace)
		cancel()
		close(r.done)
	}
}
