package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// cluster is a real API server without an operator, whose part the tests play; kubeconfig is that of somebody with the rights of a
// tenant, which a file has as kubectl's does.
var cluster struct {
	admin      client.Client
	kubeconfig string
	adminsOwn  string // kubeconfig of somebody with all rights
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return m.Run() // newBench says so in each test
	}
	dir, err := os.MkdirTemp("", "cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../manifests/crds"}, ErrorIfCRDPathMissing: true}
	cfg, err := env.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the API server:", err)
		return 1
	}
	defer func() { _ = env.Stop() }()
	cluster.kubeconfig, cluster.adminsOwn = filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "admin")
	if err := prepare(env, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the API server:", err)
		return 1
	}
	return m.Run()
}

func prepare(env *envtest.Environment, cfg *rest.Config) error {
	cfg.QPS = -1
	s := runtime.NewScheme()
	_ = clientgoscheme.AddToScheme(s)
	_ = v1alpha1.AddToScheme(s)
	var err error
	if cluster.admin, err = client.New(cfg, client.Options{Scheme: s}); err != nil {
		return err
	}
	// What "edit" grants, of what is asked for here; nothing beyond namespaces.
	verbs := []string{"create", "delete", "get", "list", "patch", "update", "watch"}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"tenantwire.dev"}, Resources: []string{"tenanttunnels", "tunnelpeers"}, Verbs: verbs},
		{APIGroups: []string{"tenantwire.dev"}, Resources: []string{"tunnelmembers"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"services", "secrets"}, Verbs: verbs}}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "tenant"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "tenant"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "tenant"}}}
	for _, o := range []client.Object{role, binding} {
		if err := cluster.admin.Create(context.Background(), o); err != nil {
			return err
		}
	}
	for path, user := range map[string]envtest.User{
		cluster.kubeconfig: {Name: "tenant", Groups: []string{"system:authenticated"}}, cluster.adminsOwn: {Name: "root", Groups: []string{"system:masters"}},
	} {
		u, err := env.AddUser(user, nil)
		if err != nil {
			return err
		}
		b, err := u.KubeConfig()
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bench is a namespace of a test's own.
type bench struct {
	*testing.T
	namespace string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if cluster.admin == nil {
		t.Skip("SKIPPED: KUBEBUILDER_ASSETS is not set to a folder with kube-apiserver, etcd and kubectl; this test needs a real API server")
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	must(t, cluster.admin.Create(t.Context(), ns))
	return &bench{t, ns.Name}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a command line as the tenant.
func (b *bench) run(ctx context.Context, in string, args ...string) (code int, out, errOut string) {
	b.Helper()
	var o, e bytes.Buffer
	where := []string{"--kubeconfig", cluster.kubeconfig, "-n", b.namespace}
	args = slices.Insert(args, 1, where...) // the last word may be one to complete
	code = Run(ctx, "test", args, Streams{In: strings.NewReader(in), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

// does runs one that must work.
func (b *bench) does(args ...string) (out, errOut string) {
	b.Helper()
	code, out, errOut := b.run(b.Context(), "", args...)
	if code != ExitOK {
		b.Fatalf("%v: code %d: %s", args, code, errOut)
	}
	return out, errOut
}

// fails runs one that must not, and says each of want.
func (b *bench) fails(want []string, args ...string) {
	b.Helper()
	code, out, errOut := b.run(b.Context(), "", args...)
	if code != ExitFailed || out != "" {
		b.Errorf("%v: code %d, output %q", args, code, out)
	}
	for _, w := range want {
		if !strings.Contains(errOut, w) {
			b.Errorf("%v: %q does not say %q", args, errOut, w)
		}
	}
}

// tunnel makes one with a gateway that is up, and the gateway's Service.
func (b *bench) tunnel(name string, service v1alpha1.GatewayServiceType) {
	b.Helper()
	t := testTunnel(name)
	t.Namespace, t.Status = b.namespace, v1alpha1.TenantTunnelStatus{}
	t.Spec.Gateway.Service.Type = service
	must(b.T, cluster.admin.Create(b.Context(), &t))
	t.Status = testTunnel(name).Status
	must(b.T, cluster.admin.Status().Update(b.Context(), &t))
	s := gatewayService(corev1.ServiceType(service), func(s *corev1.Service) {
		s.Namespace, s.Name, s.Spec.ClusterIP, s.Spec.Ports[0].NodePort = b.namespace, tenant.GatewayName(name), "", 0
	})
	must(b.T, cluster.admin.Create(b.Context(), s))
}

// operator decides on peers as they come until the test is over: decide writes a status.
func (b *bench) operator(decide func(p *v1alpha1.TunnelPeer)) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	b.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			var all v1alpha1.TunnelPeerList
			_ = cluster.admin.List(ctx, &all, client.InNamespace(b.namespace))
			for i := range all.Items {
				if p := &all.Items[i]; len(p.Status.Conditions) == 0 {
					decide(p)
					_ = cluster.admin.Status().Update(ctx, p) // again with the next round
				}
			}
		}
	}()
}

// accept is what the operator does with a peer that is right.
func accept(p *v1alpha1.TunnelPeer) {
	c := condition("Accepted", metav1.ConditionTrue, "Accepted", "the peer is part of the tunnel")
	c.ObservedGeneration = p.Generation
	p.Status.Conditions = []metav1.Condition{c}
	if p.Status.Addresses = p.Spec.Addresses; len(p.Spec.Routes)+len(p.Spec.Addresses) == 0 {
		p.Status.Addresses = []string{"10.77.0.254", "fd12:3456:789a:1::7"}
	}
}

func refuse(p *v1alpha1.TunnelPeer) {
	c := condition("Accepted", metav1.ConditionFalse, "RouteOverlap", "spec.routes: 192.168.10.0/24 overlaps another")
	c.ObservedGeneration = p.Generation
	p.Status.Conditions = []metav1.Condition{c}
}

func (b *bench) peers() map[string]v1alpha1.TunnelPeer {
	b.Helper()
	var all v1alpha1.TunnelPeerList
	must(b.T, cluster.admin.List(b.Context(), &all, client.InNamespace(b.namespace)))
	out := map[string]v1alpha1.TunnelPeer{}
	for _, p := range all.Items {
		out[p.Name] = p
	}
	return out
}

// presharedKeys are the entries of the tunnel's Secret; nil: there is none.
func (b *bench) presharedKeys(tunnel string) map[string][]byte {
	b.Helper()
	var s corev1.Secret
	err := cluster.admin.Get(b.Context(), client.ObjectKey{Namespace: b.namespace, Name: tenant.PresharedKeys(tunnel)}, &s)
	must(b.T, client.IgnoreNotFound(err))
	return s.Data
}
