package webhook

import (
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Who makes pods does not say which of them are traced: the operator's sampler does. The trace that a pod names is linked to.
func TestPodsDoNotChooseTheirTrace(t *testing.T) {
	const id = "00000000000000000000000000000001" // the least: any ratio lets it pass
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationTrace: "00-" + id + "-00f067aa0ba902b7-01"}}}
	start := func(s sdktrace.Sampler) (trace.SpanContext, sdktrace.ReadOnlySpan) {
		h := &handler{tracer: sdktrace.NewTracerProvider(sdktrace.WithSampler(s)).Tracer("")}
		_, span := h.admission(t.Context(), pod, "acme", time.Now())
		defer span.End()
		read, _ := span.(sdktrace.ReadOnlySpan)
		return span.SpanContext(), read
	}
	for name, s := range map[string]sdktrace.Sampler{"never": sdktrace.NeverSample(), "ratio": sdktrace.TraceIDRatioBased(1e-9)} {
		if sc, _ := start(sdktrace.ParentBased(s)); sc.IsSampled() || sc.TraceID().String() == id {
			t.Errorf("%s: %+v", name, sc)
		}
	}
	sc, span := start(sdktrace.ParentBased(sdktrace.AlwaysSample()))
	if !sc.IsSampled() || sc.TraceID().String() == id || span.Parent().IsValid() || len(span.Links()) != 1 || span.Links()[0].SpanContext.TraceID().String() != id {
		t.Errorf("%+v, links %+v", sc, span.Links())
	}
}
