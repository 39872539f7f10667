// Package manifests_test holds what is shipped against the code that it has to agree with, and against a real API server.
package manifests_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/operator"
	"github.com/tenantwire/tenantwire/tenant/controller"
	"github.com/tenantwire/tenantwire/webhook"
)

const namespace = "tenantwire-system"

// documents are the objects of a file by kind and name.
func documents(t *testing.T, file string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(file) //nolint:gosec // a manifest of ours
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for doc := range bytes.SplitSeq(append([]byte("\n"), b...), []byte("\n---\n")) {
		var id struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal(doc, &id); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if id.Kind != "" {
			out[id.Kind+"/"+id.Metadata.Name] = doc
		}
	}
	return out
}

func decode[T any](t *testing.T, docs map[string][]byte, id string) T {
	t.Helper()
	var v T
	doc, ok := docs[id]
	if !ok {
		t.Fatalf("install.yaml has no %s", id)
	}
	if err := yaml.UnmarshalStrict(doc, &v); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return v
}

func TestInstallIsCurrent(t *testing.T) {
	before, err := os.ReadFile("install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "manifests"), os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "docs"), 0o750); err != nil {
		t.Fatal(err)
	}
	gen := filepath.Join(root, "gen")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", gen, "./gen").CombinedOutput(); err != nil { //nolint:gosec // a test
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), gen) //nolint:gosec // a test
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if after, err := os.ReadFile(filepath.Join(root, "manifests", "install.yaml")); err != nil || !bytes.Equal(before, after) { //nolint:gosec // a test
		t.Errorf("install.yaml is stale (%v): go run ./manifests/gen", err)
	}
	templates, err := filepath.Glob("chart/tenantwire/templates/*")
	if err != nil || len(templates) == 0 {
		t.Fatalf("no templates: %v", err)
	}
	for _, name := range append(templates, "chart/tenantwire/dashboard.json", "../docs/api.md") {
		before, err := os.ReadFile(name) //nolint:gosec // a manifest of ours
		if err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadFile(filepath.Join(root, "manifests", name)); err != nil || !bytes.Equal(before, after) { //nolint:gosec // a test
			t.Errorf("%s is stale (%v): go run ./manifests/gen", name, err)
		}
	}
}

// Where the chart's values are the operator's defaults, the chart says nothing to the operator: both have to be the same.
func TestChartAgreesWithCode(t *testing.T) {
	b, err := os.ReadFile("chart/tenantwire/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		ClusterDomain, PodSecurityDefault, TunResource, UserNamespaces string
		TunForAuto                                                     bool
		ShutdownDelaySeconds                                           int
		Certificates                                                   struct{ Source string }
	}
	if err := yaml.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	o := operator.DefaultOptions()
	if v.ClusterDomain != o.ClusterDomain || v.PodSecurityDefault != o.PodSecurityDefault || v.TunResource != o.TUNResource || v.TunForAuto != o.TUNForAuto ||
		v.UserNamespaces != o.UserNamespaces || time.Duration(v.ShutdownDelaySeconds)*time.Second != o.ShutdownDelay || v.Certificates.Source != o.CertSource {
		t.Errorf("values.yaml says %+v, the operator %+v", v, o)
	}
}

// No rule reads Secrets of the cluster, none has wildcards or hands on rights but those of a gateway, and none runs anything in a pod.
func TestRoles(t *testing.T) {
	for id, doc := range documents(t, "install.yaml") {
		kind, _, _ := strings.Cut(id, "/")
		if kind != "ClusterRole" && kind != "Role" {
			continue
		}
		var role rbacv1.ClusterRole // a Role has the same rules
		if err := yaml.Unmarshal(doc, &role); err != nil {
			t.Fatal(err)
		}
		for _, r := range role.Rules {
			checkRule(t, id, kind == "ClusterRole", r)
		}
	}
}

func checkRule(t *testing.T, id string, everywhere bool, r rbacv1.PolicyRule) {
	t.Helper()
	for _, s := range slices.Concat(r.APIGroups, r.Resources, r.Verbs, r.NonResourceURLs) {
		if strings.Contains(s, "*") {
			t.Errorf("%s: wildcard %q", id, s)
		}
	}
	for _, verb := range []string{"impersonate", "escalate", "bind", "approve", "sign"} {
		if slices.Contains(r.Verbs, verb) {
			t.Errorf("%s: verb %s", id, verb)
		}
	}
	for _, resource := range r.Resources {
		switch {
		case resource == "secrets" && everywhere && slices.Equal(r.Verbs, []string{"create", "delete"}),
			slices.Contains([]string{"roles", "rolebindings"}, resource) && everywhere && slices.Equal(r.Verbs, []string{"create", "delete", "patch"}):
			// For gateways: the policy in operator/25-gateways.yaml bounds it, and a test of the controllers that.
		case resource == "secrets" && (everywhere || !slices.Equal(r.ResourceNames, []string{webhook.SecretName}) ||
			slices.ContainsFunc(r.Verbs, func(v string) bool { return v == "create" || v == "delete" || v == "deletecollection" })):
			t.Errorf("%s: %v on secrets %v", id, r.Verbs, r.ResourceNames)
		case slices.Contains([]string{"pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "nodes/proxy", "services/proxy", "pods/proxy",
			"serviceaccounts/token", "clusterroles", "clusterrolebindings", "roles", "rolebindings"}, resource):
			t.Errorf("%s: resource %s", id, resource)
		case resource == "pods" && slices.ContainsFunc(r.Verbs, func(v string) bool { return v != "get" && v != "list" && v != "watch" }):
			t.Errorf("%s: %v on pods", id, r.Verbs)
		}
	}
}

func TestWebhookAgreesWithCode(t *testing.T) {
	docs := documents(t, "install.yaml")
	c := decode[admissionv1.MutatingWebhookConfiguration](t, docs, "MutatingWebhookConfiguration/"+webhook.ConfigurationName)
	w := c.Webhooks[0]
	if s := w.ClientConfig.Service; s.Name != webhook.WebhookService || *s.Path != webhook.Path || s.Namespace != namespace {
		t.Errorf("webhook calls %s/%s%s", s.Namespace, s.Name, *s.Path)
	}
	if *w.FailurePolicy != admissionv1.Fail || w.NamespaceSelector.MatchLabels["tenantwire.dev/inject"] != "enabled" {
		t.Error("the webhook must fail closed, and only inside opted-in namespaces")
	}
	decode[corev1.Service](t, docs, "Service/"+webhook.WebhookService)
	decode[corev1.Service](t, docs, "Service/"+webhook.CoordinatorService)
	if s := decode[corev1.Secret](t, docs, "Secret/"+controller.ServingCertSecret); controller.ServingCertSecret != webhook.SecretName || len(s.Data)+len(s.StringData) > 0 {
		t.Error("the serving certificate's Secret has to be there, empty")
	}
}

// The ports and the folder in the Deployment are the operator's defaults, and every argument is a flag with a value.
func TestDeploymentAgreesWithCode(t *testing.T) {
	d := decode[appsv1.Deployment](t, documents(t, "install.yaml"), "Deployment/tenantwire-operator")
	c := d.Spec.Template.Spec.Containers[0]
	o := operator.DefaultOptions()
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if ports["webhook"] != int32(o.WebhookPort) || ports["coordinator"] != int32(o.CoordinatorPort) || c.VolumeMounts[0].MountPath != o.CertDir { //nolint:gosec // small
		t.Errorf("ports %v and %s differ from the operator's defaults", ports, c.VolumeMounts[0].MountPath)
	}
}

// The kubelet must not kill a replica that is still on its orderly way out.
func TestGracePeriodIsLongEnough(t *testing.T) {
	d := decode[appsv1.Deployment](t, documents(t, "install.yaml"), "Deployment/tenantwire-operator")
	o := operator.DefaultOptions()
	got := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
	if least := o.ShutdownDelay + operator.ShutdownTimeout + 5*time.Second; got < least {
		t.Errorf("terminationGracePeriodSeconds is %s, want at least %s", got, least)
	}
	if arg := "--shutdown-delay=" + o.ShutdownDelay.String(); !slices.Contains(d.Spec.Template.Spec.Containers[0].Args, arg) {
		t.Errorf("the Deployment has no argument %s", arg)
	}
}

// Everything in install.yaml and the examples is accepted by a real API server, unknown fields refused; and the operator's pod is
// admitted in its namespace, which enforces Pod Security "restricted".
func TestInstallOnCluster(t *testing.T) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Skip("SKIPPED: KUBEBUILDER_ASSETS is not set to a folder with kube-apiserver, etcd and kubectl; this test needs a real API server")
	}
	env := &envtest.Environment{}
	if _, err := env.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = env.Stop() })
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl := func(stdin []byte, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(context.Background(), filepath.Join(assets, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...) //nolint:gosec // a test
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	generations := func() string {
		return kubectl(nil, "get", "-n", namespace, "deploy,pdb,svc", "-o", "jsonpath={.items[*].metadata.generation}")
	}
	kubectl(nil, "apply", "--validate=strict", "-f", "install.yaml")
	before := generations()
	kubectl(nil, "apply", "--validate=strict", "-f", "install.yaml")
	if after := generations(); after != before {
		t.Errorf("applying again changes something: generations %s, then %s", before, after)
	}
	kubectl(nil, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	examples, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	const first = "examples/quickstart.yaml" // makes the namespace
	examples = append([]string{first}, slices.DeleteFunc(examples, func(e string) bool { return e == first })...)
	for _, e := range examples {
		kubectl(nil, "apply", "--validate=strict", "-f", e)
	}
	kubectl(podOf(t), "create", "--dry-run=server", "-f", "-")
}

// podOf is the operator's Deployment as the pod that it makes.
func podOf(t *testing.T) []byte {
	t.Helper()
	d := decode[appsv1.Deployment](t, documents(t, "install.yaml"), "Deployment/tenantwire-operator")
	pod := corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
	pod.APIVersion, pod.Kind, pod.Name, pod.Namespace = "v1", "Pod", "operator", namespace
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pod)
	if err != nil {
		t.Fatal(err)
	}
	b, err := yaml.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
