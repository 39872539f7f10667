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

// admission begins the trace of a pod's join, or goes on with the one that the pod names.
func (h *handler) admission(ctx context.Context, pod *corev1.Pod, namespace string, began time.Time) (context.Context, trace.Span) {
	return h.tracer.Start(tracing.From(ctx, pod.Annotations[v1alpha1.AnnotationTrace]), "admit pod", trace.WithTimestamp(began),
		trace.WithAttributes(attribute.String("k8s.namespace.name", namespace)))
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
