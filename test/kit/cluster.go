package kit

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Where the operator runs.
const (
	SystemNamespace = "tenantwire-system"
	OperatorName    = "tenantwire-operator"
)

// fieldOwner of everything that is applied here.
const fieldOwner = client.FieldOwner("tenantwire-test")

// Cluster is a cluster with the rights of an administrator.
type Cluster struct {
	client.Client
	Kube   kubernetes.Interface
	Config *rest.Config

	runners runners
}

var connect = sync.OnceValues(func() (*Cluster, error) {
	path := os.Getenv("KUBECONFIG")
	if path == "" {
		return nil, errors.New("KUBECONFIG is not set: use make e2e, or test/cluster/with-cluster.sh COMMAND")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read KUBECONFIG: %w", err)
	}
	cfg.QPS = -1
	cfg.WarningHandlerWithContext = rest.NoWarnings{}
	return newCluster(cfg)
})

// Connect returns the cluster that KUBECONFIG names.
func Connect() (*Cluster, error) { return connect() }

func newCluster(cfg *rest.Config) (*Cluster, error) {
	ctrllog.SetLogger(logr.Discard())
	s := apiruntime.NewScheme()
	for _, add := range []func(*apiruntime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	c, err := client.New(cfg, client.Options{Scheme: s, FieldOwner: string(fieldOwner)})
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return &Cluster{Client: c, Kube: kube, Config: cfg}, nil
}

// As is the same cluster with what is changed in the configuration: another user, a handler of warnings.
func (c *Cluster) As(change func(*rest.Config)) (*Cluster, error) {
	cfg := rest.CopyConfig(c.Config)
	change(cfg)
	return newCluster(cfg)
}

// Install applies manifests/install.yaml and waits until every replica of the operator is ready and none of before is left, as one
// that is told to end serves and leads on for a while. Doing it again changes nothing,
// unless dist/ holds another operator's image by now: then the operator is restarted.
func (c *Cluster) Install(ctx context.Context) error {
	return c.installFrom(ctx, filepath.Join(root(), "manifests", "install.yaml"), stampOperator)
}

// admissionReady waits until the API server reaches the webhook: rules of Services follow a pod's readiness by a moment. A namespace
// without a tunnel is refused by the webhook itself.
func (c *Cluster) admissionReady(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-admission-", Labels: map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled}}}
	if err := c.Create(ctx, ns); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	defer func() { _ = c.Delete(context.WithoutCancel(ctx), ns) }()
	return Poll(ctx, Deadline, func() error {
		p := Pod("asked")
		p.Namespace = ns.Name
		switch err := c.Create(ctx, p, client.DryRunAll); {
		case err == nil:
			return errors.New("a pod is admitted to a namespace that is opted in and has no tunnel")
		case !strings.Contains(err.Error(), "no TenantTunnel"):
			return fmt.Errorf("ask the webhook: %w", err)
		}
		return nil
	})
}

// stampOperator makes a new image of the same name a new pod template, and tells the operator what our nodes offer.
func stampOperator(u *unstructured.Unstructured) {
	if u.GetKind() != "Deployment" || u.GetName() != OperatorName {
		return
	}
	offerTUN(u)
	b, err := os.ReadFile(filepath.Join(root(), "dist", "tenantwire-operator.tar"))
	if err != nil {
		return // a cluster that pulls its images
	}
	sum := sha256.Sum256(b)
	_ = unstructured.SetNestedField(u.Object, hex.EncodeToString(sum[:8]), "spec", "template", "metadata", "annotations", "tenantwire.test/image")
}

// ApplyYAML applies the objects of a YAML stream server-side, in order, after change has seen them.
func (c *Cluster) ApplyYAML(ctx context.Context, r io.Reader, change func(*unstructured.Unstructured)) error {
	d := yaml.NewYAMLOrJSONDecoder(bufio.NewReader(r), 4096)
	for {
		var u unstructured.Unstructured
		if err := d.Decode(&u.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("decode manifest: %w", err)
		}
		if len(u.Object) == 0 {
			continue
		}
		if change != nil {
			change(&u)
		}
		// A kind that this very stream defines takes a moment to be served.
		err := Poll(ctx, 20*time.Second, func() error {
			return c.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(&u), fieldOwner, client.ForceOwnership)
		})
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
}

func (c *Cluster) operatorReady(ctx context.Context) error {
	var d appsv1.Deployment
	if err := c.Get(ctx, client.ObjectKey{Namespace: SystemNamespace, Name: OperatorName}, &d); err != nil {
		return fmt.Errorf("get operator: %w", err)
	}
	if err := rolledOut(&d); err != nil {
		return err
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(SystemNamespace), client.MatchingLabels(d.Spec.Selector.MatchLabels)); err != nil {
		return fmt.Errorf("list the operator's pods: %w", err)
	}
	if n := len(pods.Items); n != int(d.Status.Replicas) {
		return fmt.Errorf("the operator has %d pods, want %d", n, d.Status.Replicas)
	}
	return nil
}

// rolledOut says what a Deployment lacks to run nothing but what it says now.
func rolledOut(d *appsv1.Deployment) error {
	s, want := d.Status, int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	if s.ObservedGeneration < d.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want {
		return fmt.Errorf("deployment %s/%s: %d of %d replicas available, %d updated, %d in all", d.Namespace, d.Name,
			s.AvailableReplicas, want, s.UpdatedReplicas, s.Replicas)
	}
	return nil
}
