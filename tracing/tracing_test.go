package tracing

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

func TestOffUnlessAsked(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	p, flush, err := Open(t.Context(), "", "v")
	if err != nil || flush(t.Context()) != nil {
		t.Fatal(err)
	}
	ctx, span := p.Tracer(Scope).Start(t.Context(), "x")
	if span.IsRecording() || Parent(ctx) != "" {
		t.Error("it traces although nobody asked")
	}
	for _, bad := range []string{"collector:4318", "ftp://collector", "http://"} {
		if _, _, err := Open(t.Context(), bad, "v"); err == nil || !strings.Contains(err.Error(), "--otlp-endpoint: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A collector gets what was traced, and the annotation leads to the same trace.
func TestSent(t *testing.T) {
	got := make(chan []byte, 4)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/traces" {
			t.Errorf("sent to %s", r.URL.Path)
		}
		b, _ := io.ReadAll(r.Body)
		got <- b
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer collector.Close()
	for _, byFlag := range []bool{true, false} {
		endpoint := collector.URL
		if !byFlag {
			endpoint = ""
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
		}
		p, flush, err := Open(t.Context(), endpoint, "v1.2.3")
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := p.Tracer(Scope).Start(t.Context(), "admit pod")
		annotation := Parent(ctx)
		span.End()
		after := trace.SpanContextFromContext(From(context.Background(), annotation))
		if !Traced(annotation) || after.TraceID() != span.SpanContext().TraceID() || !after.IsRemote() {
			t.Errorf("%q leads to %v", annotation, after)
		}
		if err := flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := <-got
		for _, want := range []string{"admit pod", "tenantwire-operator", "v1.2.3"} {
			if !bytes.Contains(b, []byte(want)) {
				t.Errorf("the collector does not get %q", want)
			}
		}
	}
}

func FuzzFrom(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("nonsense")
	f.Fuzz(func(t *testing.T, s string) {
		if Traced(s) && !trace.SpanContextFromContext(From(context.Background(), s)).IsValid() {
			t.Error(s)
		}
	})
}
