package controller

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const (
	operatorNamespace = "tenantwire-system"
	operatorUser      = "system:serviceaccount:tenantwire-system:tenantwire-operator"
)

// cluster is a real API server: admin may do everything, operator what the shipped roles say, editor what a tenant may.
var cluster struct {
	admin            client.Client
	operator, editor *rest.Config
	kubeconfig       []byte // admin's
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return m.Run() // needCluster says so in each test
	}
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../../manifests/crds"}, ErrorIfCRDPathMissing: true}
	cfg, err := env.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the API server:", err)
		return 1
	}
	defer func() { _ = env.Stop() }()
	if err := prepare(env, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the API server:", err)
		return 1
	}
	return m.Run()
}

func testScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	_ = clientgoscheme.AddToScheme(s)
	_ = v1alpha1.AddToScheme(s)
	return s
}

func prepare(env *envtest.Environment, cfg *rest.Config) error {
	cfg.QPS = -1
	cluster.kubeconfig = env.KubeConfig
	var err error
	if cluster.admin, err = client.New(cfg, client.Options{Scheme: testScheme()}); err != nil {
		return err
	}
	ctx := context.Background()
	for _, piece := range []string{"operator/00-namespace.yaml", "rbac/role.yaml", "operator/10-account.yaml", "operator/20-tenants.yaml", "operator/25-gateways.yaml"} {
		if err := create(ctx, filepath.Join("../../manifests", piece)); err != nil {
			return err
		}
	}
	// No controller manager runs here that would aggregate the role into "edit", so the editor gets the role itself.
	err = cluster.admin.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "editor"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "tenantwire-edit"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "editor"}}})
	if err != nil {
		return err
	}
	if cluster.operator, err = user(env, operatorUser); err != nil {
		return err
	}
	cluster.editor, err = user(env, "editor")
	return err
}

func user(env *envtest.Environment, name string) (*rest.Config, error) {
	u, err := env.AddUser(envtest.User{Name: name, Groups: []string{"system:authenticated"}}, &rest.Config{QPS: -1})
	if err != nil {
		return nil, err
	}
	return u.Config(), nil
}

func create(ctx context.Context, file string) error {
	objects, err := readManifest(file)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := cluster.admin.Create(ctx, o); err != nil {
			return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

func readManifest(file string) ([]*unstructured.Unstructured, error) {
	b, err := os.ReadFile(file) //nolint:gosec // a manifest of ours
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, doc := range splitYAML(string(b)) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if u.Object != nil {
			out = append(out, u)
		}
	}
	return out, nil
}

func needCluster(t *testing.T) {
	t.Helper()
	if cluster.admin == nil {
		t.Skip("SKIPPED: KUBEBUILDER_ASSETS is not set to a folder with kube-apiserver, etcd and kubectl; this test needs a real API server")
	}
}

// namespace makes a namespace of the test's own.
func namespace(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-", Labels: map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled}}}
	must(t, cluster.admin.Create(t.Context(), ns))
	return ns.Name
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience bounds every wait for what must happen; it is long for machines that are busy.
const patience = 90 * time.Second

// eventually waits until check returns nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("not so after %s: %v", patience, err)
}
