package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// namespace is one namespace of the cluster, as the user may see and change it.
type namespace struct {
	client client.WithWatch
	rest   *rest.Config
	name   string
}

// connect finds the cluster and the namespace as kubectl does. It asks nothing of them yet.
func (cs *commands) connect() (*namespace, error) {
	loader := cs.config.ToRawKubeConfigLoader()
	name, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	cfg, err := cs.config.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	cfg.UserAgent = "kubectl-tenantwire/" + cs.version
	cfg.QPS = -1 // the API server says itself when it is too much
	cfg.WarningHandler = rest.NewWarningWriter(cs.Err, rest.WarningWriterOptions{Deduplicate: true})
	s := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: s, Mapper: mapper(), FieldOwner: "kubectl-tenantwire"})
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	return &namespace{c, cfg, name}, nil
}

// mapper knows the kinds that are used here, so that the API server need not be asked for all of its own.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1alpha1.GroupVersion, corev1.SchemeGroupVersion})
	for _, kind := range []string{"TenantTunnel", "TunnelPeer", "TunnelMember"} {
		m.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []string{"Service", "Secret"} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	m.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	return m
}

func (n *namespace) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: n.name, Name: name}
}

// tunnel is the named one or, without a name, the only one.
func (n *namespace) tunnel(ctx context.Context, name string) (*v1alpha1.TenantTunnel, error) {
	var all v1alpha1.TenantTunnelList
	if err := n.client.List(ctx, &all, client.InNamespace(n.name)); err != nil {
		return nil, fmt.Errorf("list the tunnels of namespace %s: %w", n.name, notInstalled(err))
	}
	return choose(all.Items, name, n.name)
}

func choose(all []v1alpha1.TenantTunnel, name, namespace string) (*v1alpha1.TenantTunnel, error) {
	names := make([]string, 0, len(all))
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
		names = append(names, all[i].Name)
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("namespace %s has no TenantTunnel: make one with spec.gateway first, or name another namespace with -n", namespace)
	case name != "":
		return nil, fmt.Errorf("namespace %s has no TenantTunnel %q; it has %s", namespace, name, strings.Join(names, ", "))
	case len(all) > 1:
		return nil, fmt.Errorf("namespace %s has %d TenantTunnels (%s): say which with --tunnel", namespace, len(all), strings.Join(names, ", "))
	}
	return &all[0], nil
}

// peers are all of the namespace, or of the cluster for the namespace "".
func (n *namespace) peers(ctx context.Context) ([]v1alpha1.TunnelPeer, error) {
	var all v1alpha1.TunnelPeerList
	if err := n.client.List(ctx, &all, client.InNamespace(n.name)); err != nil {
		return nil, fmt.Errorf("list peers: %w", notInstalled(err))
	}
	return all.Items, nil
}

// notInstalled explains why there is no list to be had, which is never the fault of the objects.
func notInstalled(err error) error {
	if apierrors.IsNotFound(err) {
		return errors.New("the cluster does not know the kind: TenantWire is not installed in it, or in another version")
	}
	return err
}

// unanswered says that an error is not the API server's own: nobody knows whether it did what it was asked for.
func unanswered(err error) bool { return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown }

// passing says whether asking again may help.
func passing(err error) bool {
	return unanswered(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err)
}
