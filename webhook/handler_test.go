package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace/noop"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func testScheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	return s
}

func testConfig() injector.Config {
	c := injector.DefaultConfig()
	c.Image, c.GatewayImage = "registry.example/tenantwire/sidecar:v0.1.0", "registry.example/tenantwire/gateway:v0.1.0"
	c.CoordinatorURL = "https://tenantwire-coordinator.tenantwire-system.svc:8443"
	return c
}

func optedIn(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled}}}
}

func tunnel(namespace, name string, selector map[string]string) *v1alpha1.TenantTunnel {
	t := &v1alpha1.TenantTunnel{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if selector != nil {
		t.Spec.Members.Selector = &metav1.LabelSelector{MatchLabels: selector}
	}
	return t
}

// newHandler has one view of the cluster from the cache and another one live.
func newHandler(t testing.TB, cached, live []client.Object) (*handler, *events.FakeRecorder) {
	t.Helper()
	reader := func(objects []client.Object) client.Reader {
		return fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(objects...).Build()
	}
	recorder := events.NewFakeRecorder(16)
	return &handler{config: testConfig(), cached: reader(cached), live: newLiveReader(reader(live)), events: eventsOf(recorder), log: logr.Discard(), tracer: noop.NewTracerProvider().Tracer("")}, recorder
}

func createPod(t testing.TB, change func(*corev1.Pod)) admission.Request {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}
	if change != nil {
		change(pod)
	}
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID: "1", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Operation: admissionv1.Create,
		Namespace: "shop", Name: pod.Name, Object: runtime.RawExtension{Raw: raw},
	}}
}

// TestCacheBehind: what a cache that lags behind would leave in plaintext or refuse is asked of the API server.
func TestCacheBehind(t *testing.T) {
	app := map[string]string{"app": "other"}
	plain := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	required := tunnel("shop", "main", nil)
	required.Spec.Members.Enforcement = v1alpha1.EnforcementRequired
	optOut := func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationInject: "false"} }
	tests := []struct {
		name         string
		cached, live []client.Object
		pod          func(*corev1.Pod)
		want         injector.Reason
	}{
		{"in step", []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, nil, nil, injector.Injected},
		{"namespace just created", nil, []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, nil, injector.Injected},
		{"namespace just opted in", []client.Object{plain, tunnel("shop", "main", nil)}, []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, nil, injector.Injected},
		{"tunnel just created", []client.Object{optedIn("shop")}, []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, nil, injector.Injected},
		{"second tunnel just created", []client.Object{optedIn("shop"), tunnel("shop", "main", app)},
			[]client.Object{optedIn("shop"), tunnel("shop", "main", app), tunnel("shop", "second", nil)}, nil, injector.Injected},
		{"just required", []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, []client.Object{optedIn("shop"), required}, optOut, injector.OptOutForbidden},
		{"really none", []client.Object{optedIn("shop")}, []client.Object{optedIn("shop")}, nil, injector.NoTunnel},
		{"really not opted in", []client.Object{plain}, []client.Object{plain}, nil, injector.NamespaceNotOptedIn},
		{"namespace unknown", nil, nil, nil, injector.ClusterNotObservable},
		{"another namespace's tunnel", []client.Object{optedIn("shop"), tunnel("other", "main", nil)}, []client.Object{optedIn("shop")}, nil, injector.NoTunnel},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, _ := newHandler(t, tt.cached, tt.live)
			r := h.Handle(t.Context(), createPod(t, tt.pod))
			if got := r.AuditAnnotations["reason"]; got != string(tt.want) {
				t.Fatalf("%s: %v", got, r.Result)
			}
			outcome := injector.OutcomeOf(tt.want)
			if r.Allowed != (outcome != injector.Deny) || (len(r.Patch) > 0) != (outcome == injector.Inject) || len(r.Patch) > 0 != (r.PatchType != nil) {
				t.Errorf("allowed %v, patch of %d bytes", r.Allowed, len(r.Patch))
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	h, recorder := newHandler(t, []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, nil)
	owned := func(p *corev1.Pod) {
		p.Spec.HostNetwork = true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "app-1", UID: "u", Controller: ptr.To(true)}}
	}
	dry := createPod(t, owned)
	dry.DryRun = ptr.To(true)
	for _, req := range []admission.Request{dry, createPod(t, owned)} {
		r := h.Handle(t.Context(), req)
		if r.Allowed || r.Result.Code != http.StatusForbidden || !strings.Contains(r.Result.Message, "HostNetwork") ||
			!strings.Contains(r.Result.Message, "spec.hostNetwork") {
			t.Fatalf("%+v", r.Result)
		}
	}
	if e := <-recorder.Events; !strings.HasPrefix(e, "Warning HostNetwork") || len(recorder.Events) > 0 {
		t.Errorf("event %q, and %d more: the dry run must have none", e, len(recorder.Events))
	}
}

func TestRegarding(t *testing.T) {
	pod := &corev1.Pod{}
	if r := regarding(decided{namespace: "shop", pod: pod}); r.Kind != "Namespace" || r.Name != "shop" || r.Namespace != "shop" {
		t.Errorf("bare pod: %v", r)
	}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "j", UID: "u", Controller: ptr.To(true)}}
	if r := regarding(decided{namespace: "shop", pod: pod}); r.Kind != "Job" || r.Name != "j" || r.UID != "u" || r.Namespace != "shop" {
		t.Errorf("job's pod: %v", r)
	}
}

func TestNote(t *testing.T) {
	if got := note(strings.Repeat("ä", maxNote)); len(got) > maxNote || !strings.HasSuffix(got, "ä...") {
		t.Errorf("%d bytes: %q", len(got), got[len(got)-8:])
	}
}

// panicking is a cluster that makes a request panic.
type panicking struct{ client.Reader }

func (panicking) List(context.Context, client.ObjectList, ...client.ListOption) error {
	panic("secret of the pod")
}

// TestFailsClosed: whatever goes wrong, the pod is refused, and the answer does not hold what made it go wrong.
func TestFailsClosed(t *testing.T) {
	broken, _ := newHandler(t, nil, nil)
	broken.cached = panicking{}
	h, _ := newHandler(t, []client.Object{optedIn("shop"), tunnel("shop", "main", nil)}, nil)
	noPod, update, exec := createPod(t, nil), createPod(t, nil), createPod(t, nil)
	noPod.Object.Raw = []byte(`{"spec":[]}`)
	update.Operation = admissionv1.Update
	exec.SubResource = "exec"
	for name, tt := range map[string]struct {
		h    *handler
		req  admission.Request
		code int32
	}{
		"panic":       {broken, createPod(t, nil), http.StatusInternalServerError},
		"not a pod":   {h, noPod, http.StatusForbidden},
		"update":      {h, update, http.StatusBadRequest},
		"subresource": {h, exec, http.StatusBadRequest},
	} {
		r := tt.h.Handle(t.Context(), tt.req)
		if r.Allowed || r.Result.Code != tt.code || strings.Contains(r.Result.Message, "secret") {
			t.Errorf("%s: allowed %v, %+v", name, r.Allowed, r.Result)
		}
	}
}
