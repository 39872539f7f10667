// Package tracing sends traces of how pods join, by OTLP over HTTP. It is off unless an endpoint is named.
//
//	admission of the pod (webhook) -> annotation -> registration, plan, first configuration, data path up (coordinator)
//
// A sidecar sends no spans: it tells with its registration and its report what took how long, and the coordinator records that for it.
// Attributes are names, reasons and counts: no keys, no addresses, no annotations of pods.
package tracing

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Scope names what makes the spans.
const Scope = "github.com/tenantwire/tenantwire"

// Open makes what spans are made with, and how to send the last of them when all is over. The endpoint is a URL; where it is empty the
// standard variables OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT count, and without them nothing is traced.
// The other OTEL_ variables of exporters, samplers and resources count too.
func Open(ctx context.Context, endpoint, version string) (trace.TracerProvider, func(context.Context) error, error) {
	none := func(context.Context) error { return nil }
	named := cmp.Or(endpoint, os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	if named == "" || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return noop.NewTracerProvider(), none, nil
	}
	var options []otlptracehttp.Option
	if endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, none, fmt.Errorf("--otlp-endpoint: %q is not an http or https URL, for example http://collector:4318", endpoint)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		options = append(options, otlptracehttp.WithEndpointURL(u.String()))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, none, fmt.Errorf("send traces to %s: %w", named, err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "tenantwire-operator"),
		attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		return nil, none, fmt.Errorf("describe the operator for traces: %w", err)
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return p, p.Shutdown, nil
}

// MaxParent bounds a pod's annotation, in bytes: a longer one is no traceparent.
const MaxParent = 64

// From is the context of a pod's annotation: a valid one, or as ctx was.
func From(ctx context.Context, traceparent string) context.Context {
	if len(traceparent) > MaxParent {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// Traced says whether a pod's annotation names a trace that is recorded.
func Traced(traceparent string) bool {
	return trace.SpanContextFromContext(From(context.Background(), traceparent)).IsSampled()
}

// Parent is what to write into a pod's annotation; empty where the span of ctx is not recorded.
func Parent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	return c["traceparent"]
}
