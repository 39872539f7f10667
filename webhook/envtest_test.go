package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

const system = "tenantwire-system"

// cluster is a real API server with an empty Secret, the webhook configuration, and three namespaces: system, shop (opted in, Pod
// Security restricted) and plain.
type cluster struct {
	t        *testing.T
	client   client.Client // all rights
	operator *rest.Config  // the operator's rights
	port     int
}

// TestAPIServer runs the webhook behind a real API server: two replicas, first start with an empty Secret, the rights of the
// operator and no more.
func TestAPIServer(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set: it names the directory of kube-apiserver, etcd and kubectl; test/cluster/build.sh makes one. NOT TESTED: certificates and admission against a real API server")
	}
	c := startCluster(t)

	t.Run("before the first start", c.closedWhileDown)
	ctx, stop := context.WithCancel(t.Context())
	first, second := c.startReplica(ctx, c.port, "one"), c.startReplica(ctx, freePort(t), "two")
	for _, r := range []*replica{first, second} {
		select {
		case <-r.certificates.Ready():
		case err := <-r.done:
			t.Fatalf("a replica ended: %v", err)
		case <-time.After(60 * time.Second):
			t.Fatal("a replica has no certificate")
		}
	}
	c.caInjected(first)
	t.Run("both replicas present the certificate", func(t *testing.T) { c.presented(t, first); c.presented(t, second) })
	t.Run("no tunnel", c.refusedWithoutTunnel)
	t.Run("injection", c.injects)
	t.Run("events", c.events)
	t.Run("rotation", func(*testing.T) { c.rotates(first, second) })

	stop()
	for _, r := range []*replica{first, second} {
		if err := <-r.done; err != nil {
			t.Errorf("a replica ended: %v", err)
		}
	}
	t.Run("after the last one stopped", c.closedWhileDown)
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	logger := logr.Discard()
	if testing.Verbose() {
		logger = funcr.New(func(prefix, args string) { fmt.Fprintln(os.Stderr, prefix, args) }, funcr.Options{})
	}
	ctrllog.SetLogger(logger)
	env := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "manifests", "crds")}, ErrorIfCRDPathMissing: true,
		ControlPlaneStopTimeout: 60 * time.Second}
	// The plugin that mounts API tokens belongs to what the webhook meets.
	env.ControlPlane.GetAPIServer().Configure().Disable("disable-admission-plugins")
	config, err := env.Start()
	if err != nil {
		t.Fatalf("start API server: %v", err)
	}
	t.Cleanup(func() { _ = env.Stop() })
	cl, err := client.New(config, client.Options{Scheme: testScheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	user, err := env.AddUser(envtest.User{Name: "operator"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, client: cl, operator: user.Config(), port: freePort(t)}
	c.create(c.objects()...)
	return c
}

func (c *cluster) create(objects ...client.Object) {
	c.t.Helper()
	for _, o := range objects {
		if err := c.client.Create(c.t.Context(), o); err != nil {
			c.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (c *cluster) objects() []client.Object {
	shop := optedIn("shop")
	shop.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
	account := func(namespace string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}
	}
	return append([]client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}}, shop, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "plain"}},
		account("shop"), account("plain"),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: SecretName}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "not-ours"}, StringData: map[string]string{"tls.key": "x"}},
		// There is no cluster network: the name of a Service of this type is what the API server dials.
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: WebhookService},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}},
		&admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: ConfigurationName},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name:                    "inject.tenantwire.dev",
				FailurePolicy:           ptr.To(admissionregistrationv1.Fail),
				SideEffects:             ptr.To(admissionregistrationv1.SideEffectClassNoneOnDryRun),
				ReinvocationPolicy:      ptr.To(admissionregistrationv1.IfNeededReinvocationPolicy),
				AdmissionReviewVersions: []string{"v1"},
				TimeoutSeconds:          ptr.To[int32](5),
				NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled}},
				Rules: []admissionregistrationv1.RuleWithOperations{{
					Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
				}},
				ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{
					Namespace: system, Name: WebhookService, Path: ptr.To(Path), Port: ptr.To(int32(c.port)),
				}},
			}},
		},
	}, operatorRights()...)
}

// operatorRights are what webhook and certificates need: the manifests may give no less.
func operatorRights() []client.Object {
	rule := func(group string, resources, names []string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, ResourceNames: names, Verbs: verbs}
	}
	subject := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "operator"}}
	return []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "operator"}, Rules: []rbacv1.PolicyRule{
			rule("", []string{"namespaces", "services", "nodes"}, nil, "get", "list", "watch"),
			rule("tenantwire.dev", []string{"tenanttunnels"}, nil, "get", "list", "watch"),
			rule("events.k8s.io", []string{"events"}, nil, "create", "patch"),
			rule("admissionregistration.k8s.io", []string{"mutatingwebhookconfigurations"}, []string{ConfigurationName}, "get", "list", "watch", "update"),
		}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "operator"}, Rules: []rbacv1.PolicyRule{
			rule("", []string{"secrets"}, []string{SecretName}, "get", "list", "watch", "update"),
			rule("coordination.k8s.io", []string{"leases"}, nil, "get", "create", "update"),
		}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "operator"}, Subjects: subject,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "operator"}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "operator"}, Subjects: subject,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "operator"}},
	}
}

type replica struct {
	certificates *Certificates
	port         int
	done         chan error
}

func (c *cluster) startReplica(ctx context.Context, port int, name string) *replica {
	c.t.Helper()
	certificates, err := NewCertificates(CertOptions{Source: CertRotated, Namespace: system, CertDir: c.t.TempDir(), rotatorName: "cert-rotator-" + name})
	if err != nil {
		c.t.Fatal(err)
	}
	mgr, err := manager.New(c.operator, manager.Options{
		Scheme: testScheme(c.t), Metrics: metricsserver.Options{BindAddress: "0"}, WebhookServer: NewServer(certificates, "", port, ctx.Done()),
		LeaderElection: true, LeaderElectionID: "tenantwire", LeaderElectionNamespace: system, LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := certificates.AddToManager(mgr); err != nil {
		c.t.Fatal(err)
	}
	if err := Setup(mgr, Options{Injector: testConfig()}); err != nil {
		c.t.Fatal(err)
	}
	r := &replica{certificates: certificates, port: port, done: make(chan error, 1)}
	go func() { r.done <- mgr.Start(ctx) }()
	return r
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// restrictedPod is one that Pod Security admits under restricted.
func restrictedPod(namespace, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "app", Image: "app:1", SecurityContext: &corev1.SecurityContext{
			RunAsNonRoot: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}}},
	}}
}

// closedWhileDown: nobody answers, so pods of opted-in namespaces are refused, and no others.
func (c *cluster) closedWhileDown(t *testing.T) {
	if err := c.client.Create(t.Context(), restrictedPod("shop", "down")); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "webhook") {
		t.Errorf("opted-in namespace: %v", err)
	}
	pod := restrictedPod("plain", "")
	pod.GenerateName = "down-"
	if err := c.client.Create(t.Context(), pod); err != nil || len(pod.Spec.InitContainers) > 0 {
		t.Errorf("other namespace: %v", err)
	}
}

// eventually waits for the cluster to become what check wants.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !check(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func (c *cluster) caInjected(r *replica) {
	c.t.Helper()
	eventually(c.t, "the CA is in the webhook configuration", func() bool {
		var config admissionregistrationv1.MutatingWebhookConfiguration
		err := c.client.Get(c.t.Context(), client.ObjectKey{Name: ConfigurationName}, &config)
		ca := config.Webhooks[0].ClientConfig.CABundle
		return err == nil && len(ca) > 0 && string(ca) == string(r.certificates.CABundle())
	})
}

func (c *cluster) presented(t *testing.T, r *replica) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.certificates.CABundle())
	for _, name := range r.certificates.options.DNSNames() {
		conn, err := tls.Dial("tcp", fmt.Sprintf("localhost:%d", r.port), &tls.Config{RootCAs: roots, ServerName: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("TLS version %x", v)
		}
		_ = conn.Close()
	}
}

func (c *cluster) refusedWithoutTunnel(t *testing.T) {
	err := c.client.Create(t.Context(), restrictedPod("shop", "early"))
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), string(injector.NoTunnel)) {
		t.Errorf("%v", err)
	}
}

// injects: the pod comes right after its tunnel, passes Pod Security restricted, and its sidecar has no API token.
func (c *cluster) injects(t *testing.T) {
	c.create(tunnel("shop", "main", nil))
	pod := restrictedPod("shop", "app")
	if err := c.client.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].Name != injector.ContainerName || pod.Labels[v1alpha1.LabelTunnel] != "main" {
		t.Fatalf("not injected: %v, labels %v", pod.Spec.InitContainers, pod.Labels)
	}
	sidecar := pod.Spec.InitContainers[0]
	if len(sidecar.VolumeMounts) != 2 {
		t.Errorf("the sidecar mounts %v", sidecar.VolumeMounts)
	}
	if n := len(pod.Spec.Containers[0].VolumeMounts); n != 1 {
		t.Errorf("the application has %d mounts, want its API token: the test proves nothing about the sidecar's otherwise", n)
	}
	// What the API server made of it, defaults and all, is still ours: a copy passes and stays as it is.
	again := restrictedPod("shop", "copy")
	again.Labels, again.Spec = pod.Labels, *pod.Spec.DeepCopy()
	if err := c.client.Create(t.Context(), again, client.DryRunAll); err != nil {
		t.Fatalf("a copy of the injected pod: %v", err)
	}
	if !equality.Semantic.DeepEqual(again.Spec.InitContainers, pod.Spec.InitContainers) {
		t.Errorf("the copy's sidecar is\n%v\nwant\n%v", again.Spec.InitContainers, pod.Spec.InitContainers)
	}
	budget := restrictedPod("shop", "budget") // the sidecar must not exceed it
	some := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	budget.Spec.Resources = &corev1.ResourceRequirements{Requests: some, Limits: some}
	budget.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: some}
	if err := c.client.Create(t.Context(), budget); err != nil {
		t.Errorf("a pod with resources of its own: %v", err)
	}
	impostor := again.DeepCopy()
	impostor.ResourceVersion, impostor.UID = "", ""
	impostor.Name = "impostor"
	impostor.Spec.InitContainers[0].Image = "evil:1"
	if err := c.client.Create(t.Context(), impostor); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "image") {
		t.Errorf("a sidecar with another image: %v", err)
	}
	if err := c.client.Create(t.Context(), restrictedPod("plain", "untouched")); err != nil {
		t.Error(err)
	}
}

// events: a refused pod of a controller leaves an Event there, a dry run leaves none.
func (c *cluster) events(t *testing.T) {
	owned := func(change func(*corev1.Pod)) *corev1.Pod {
		pod := restrictedPod("shop", "refused")
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "shop-1",
			UID: "0b6c1f0e-0000-4000-8000-000000000001", Controller: ptr.To(true)}}
		change(pod)
		return pod
	}
	dry := owned(func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationExpose: "x"} })
	if err := c.client.Create(t.Context(), dry, client.DryRunAll); !apierrors.IsForbidden(err) {
		t.Fatalf("dry run: %v", err)
	}
	if err := c.client.Create(t.Context(), owned(func(p *corev1.Pod) { p.Spec.HostNetwork = true })); !apierrors.IsForbidden(err) {
		t.Fatal(err)
	}
	var list eventsv1.EventList
	found := func(reason injector.Reason) bool {
		if err := c.client.List(t.Context(), &list, client.InNamespace("shop")); err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Reason == string(reason) {
				return e.Regarding.Kind == "ReplicaSet" && e.Regarding.Name == "shop-1" && e.Type == corev1.EventTypeWarning
			}
		}
		return false
	}
	eventually(t, "an Event at the ReplicaSet", func() bool { return found(injector.HostNetwork) })
	if found(injector.MalformedAnnotation) {
		t.Error("the dry run left an Event")
	}
	eventually(t, "an Event in the namespace of the bare pod", func() bool {
		_ = c.client.List(t.Context(), &list, client.InNamespace("shop"))
		for _, e := range list.Items {
			if e.Reason == string(injector.NoTunnel) && e.Regarding.Kind == "Namespace" {
				return true
			}
		}
		return false
	})
}

// rotates: an emptied Secret is filled again; both replicas present the new certificate at once and admission goes on.
func (c *cluster) rotates(replicas ...*replica) {
	t := c.t
	before := string(replicas[0].certificates.CABundle())
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: SecretName}}
	if err := c.client.Patch(t.Context(), secret, client.RawPatch("application/json-patch+json", []byte(`[{"op":"remove","path":"/data"}]`))); err != nil {
		t.Fatal(err)
	}
	for _, r := range replicas {
		eventually(t, "a new certificate", func() bool { return string(r.certificates.CABundle()) != before })
		c.presented(t, r)
	}
	c.caInjected(replicas[0])
	eventually(t, "admission with the new certificate", func() bool {
		return c.client.Create(t.Context(), restrictedPod("shop", "rotated"), client.DryRunAll) == nil
	})
}
