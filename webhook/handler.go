package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tracing"
)

// timeout bounds one request; what the webhook configuration allows has to be more.
const timeout = 4 * time.Second

type handler struct {
	config injector.Config
	cached client.Reader
	live   *liveReader
	nodes  *nodeFeatures // nil: they do not matter
	events func(decided)
	log    logr.Logger
	tracer trace.Tracer
}

// decided is a decision and what it was about.
type decided struct {
	injector.Decision
	namespace string
	pod       *corev1.Pod // nil when it could not be parsed
	dryRun    bool
	patch     []byte
}

// Handle answers one request. The body's size is bounded by the server.
func (h *handler) Handle(ctx context.Context, req admission.Request) admission.Response {
	if req.Kind.Kind != "Pod" || req.Kind.Group != "" || req.SubResource != "" || req.Operation != admissionv1.Create {
		return admission.Errored(http.StatusBadRequest,
			fmt.Errorf("tenantwire: asked about %s of %s/%s, but only the creation of pods is known here: correct the webhook configuration",
				req.Operation, req.Kind.Kind, req.SubResource))
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	d := h.decide(ctx, req, start)
	observe(d, time.Since(start))
	h.report(req, d)
	return respond(d)
}

// decide never panics: a pod that makes a rule panic is refused, and others are still served.
func (h *handler) decide(ctx context.Context, req admission.Request, began time.Time) (d decided) {
	d = decided{namespace: req.Namespace, dryRun: ptr.Deref(req.DryRun, false)}
	defer func() {
		if r := recover(); r != nil {
			h.log.Error(fmt.Errorf("panic: %v", r), "deciding on a pod", "namespace", req.Namespace, "stack", string(debug.Stack()))
			d.Decision, d.patch = failed(injector.InternalError, errors.New("an internal error, see the operator's log")), nil
		}
	}()
	pod, err := injector.ParsePod(req.Object.Raw)
	if err != nil {
		d.Decision = failed(injector.InvalidPod, err)
		return d
	}
	d.pod = pod
	ctx, span := h.admission(ctx, pod, req.Namespace, began)
	defer func() { admitted(span, d) }()
	in := injector.Input{Raw: req.Object.Raw, Pod: pod, Config: &h.config}
	if d.Decision, err = h.gatherAndDecide(ctx, in, req.Namespace); err != nil {
		d.Decision = failed(injector.ClusterNotObservable, err)
		return d
	}
	switch {
	case d.Plan != nil:
		d.Plan.Trace = tracing.Parent(ctx)
		d.patch, err = injector.Patch(req.Object.Raw, d.Plan)
	case d.ViaGateway:
		d.patch, err = injector.PatchViaGateway(req.Object.Raw)
	}
	if err != nil {
		d.Decision = failed(injector.InvalidPod, err)
	}
	return d
}

func failed(r injector.Reason, err error) injector.Decision {
	return injector.Decision{Outcome: injector.Deny, Reason: r, Message: err.Error()}
}

// report writes one line per decision. Messages hold names, fields and annotation values, never those of environment variables.
func (h *handler) report(req admission.Request, d decided) {
	name := req.Name
	if name == "" && d.pod != nil {
		name = d.pod.GenerateName + "?"
	}
	h.log.Info("decided on a pod", "namespace", d.namespace, "pod", name, "outcome", d.Outcome, "reason", d.Reason,
		"tunnel", d.Tunnel, "message", d.Message, "warnings", len(d.Warnings), "patchBytes", len(d.patch), "dryRun", d.dryRun,
		"uid", req.UID)
	if !d.dryRun && h.events != nil {
		h.events(d)
	}
}

func respond(d decided) admission.Response {
	r := admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{
		Allowed:          d.Outcome != injector.Deny,
		Warnings:         d.Warnings,
		AuditAnnotations: map[string]string{"outcome": string(d.Outcome), "reason": string(d.Reason)},
	}}
	if !r.Allowed {
		r.Result = refusal(d)
		return r
	}
	if len(d.patch) > 0 {
		r.Patch, r.PatchType = d.patch, ptr.To(admissionv1.PatchTypeJSONPatch)
	}
	return r
}

func refusal(d decided) *metav1.Status {
	s := &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("tenantwire refuses the pod (%s): %s", d.Reason, d.Message)}
	if d.Reason == injector.InternalError || d.Reason == injector.ClusterNotObservable {
		s.Code, s.Reason = http.StatusInternalServerError, metav1.StatusReasonInternalError
	}
	return s
}
