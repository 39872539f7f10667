package coordinator

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/tracing"
)

// maxSkew is how far a pod's clock may be off before what it tells of is left out of traces.
const maxSkew = 10 * time.Minute

// join is the trace of one pod's join; nil: it is not traced, or has joined.
type join struct {
	tracer trace.Tracer
	ctx    context.Context
	about  []attribute.KeyValue
}

// joinOf is nil for pods that were admitted without a trace, and once their data path has been up.
func (s *Server) joinOf(m Member) *join {
	if s.Tracer == nil || m.Object == nil || !tracing.Traced(m.Trace) || meta.IsStatusConditionTrue(m.Object.Status.Conditions, v1alpha1.ConditionReady) {
		return nil
	}
	return &join{s.Tracer, tracing.From(context.Background(), m.Trace), []attribute.KeyValue{
		attribute.String("k8s.namespace.name", m.Object.Namespace), attribute.String("k8s.pod.name", m.Object.Name),
		attribute.String("tenantwire.tunnel", m.Object.Spec.Tunnel)}}
}

// span records what took from one time until another.
func (j *join) span(name string, began, ended time.Time, more ...attribute.KeyValue) {
	if j == nil {
		return
	}
	_, span := j.tracer.Start(j.ctx, name, trace.WithTimestamp(began), trace.WithAttributes(j.about...), trace.WithAttributes(more...))
	span.End(trace.WithTimestamp(ended))
}

// told records what a sidecar says of itself. Its clock may differ.
func (j *join) told(by *wire.Join) {
	if j == nil || by == nil {
		return
	}
	for _, s := range by.Steps {
		if d := time.Since(s.End); d < maxSkew && d > -maxSkew {
			j.span("sidecar: "+s.Name, s.Begin, s.End, attribute.Bool("tenantwire.by_sidecar", true))
		}
	}
}
