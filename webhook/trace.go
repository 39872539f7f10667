package webhook

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/tracing"
)

// admission begins the trace of a pod's join. It only links to one that the pod names: whoever makes pods could otherwise have all of them
// sampled, by a flag or by an ID that a ratio lets pass.
func (h *handler) admission(ctx context.Context, pod *corev1.Pod, namespace string, began time.Time) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithTimestamp(began), trace.WithAttributes(attribute.String("k8s.namespace.name", namespace))}
	if named := trace.SpanContextFromContext(tracing.From(context.Background(), pod.Annotations[v1alpha1.AnnotationTrace])); named.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: named}))
	}
	return h.tracer.Start(ctx, "admit pod", options...)
}

// admitted ends the span with what was decided.
func admitted(span trace.Span, d decided) {
	span.SetAttributes(attribute.String("tenantwire.outcome", string(d.Outcome)), attribute.String("tenantwire.reason", string(d.Reason)),
		attribute.String("tenantwire.tunnel", d.Tunnel))
	if d.Outcome == injector.Deny {
		span.SetStatus(codes.Error, string(d.Reason))
	}
	span.End()
}
