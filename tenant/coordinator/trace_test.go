package coordinator

import (
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	admissionID = "00f067aa0ba902b7"
)

// One trace shows the join of a pod, the sidecar's own part of it too, and ends when the data path is up. It tells no keys and no addresses.
func TestJoinIsTraced(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	f, srv := start(t, func(o *Options) { o.Tracer = provider.Tracer("test") })
	f.trace = "00-" + traceID + "-" + admissionID + "-01"
	self := f.add(0)
	now := time.Now()
	reg := registration()
	reg.Join = &wire.Join{Steps: []wire.Step{{Name: "start", Begin: now.Add(-time.Second), End: now}, {Name: "long ago", Begin: now.Add(-time.Hour), End: now.Add(-time.Hour)}}}
	if code, text := call(t, srv, wire.RegisterPath, self, reg); code != 200 {
		t.Fatal(code, text)
	}
	if code, text := call(t, srv, wire.RegisterPath, self, reg); code != 200 { // once more, which is no part of it
		t.Fatal(code, text)
	}
	next(t, watch(t, srv, self, ""))
	up := wire.Report{Ready: true, Join: &wire.Join{Steps: []wire.Step{{Name: "open the data path", Begin: now, End: now}}}}
	want := []string{"await member", "data path up", "plan", "register", "send configuration", "sidecar: open the data path", "sidecar: start"}
	var got []string
	for end := time.Now().Add(10 * time.Second); len(got) < len(want) && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if len(spans.GetSpans()) >= 5 && len(got) == 0 { // the stream's are there
			call(t, srv, wire.ReportPath, self, up)
			call(t, srv, wire.ReportPath, self, up)    // it has joined: this is nobody's trace any more
			call(t, srv, wire.RegisterPath, self, reg) // nor is this
		}
		got = nil
		for _, s := range spans.GetSpans() {
			got = append(got, s.Name)
		}
		if len(got) < 5 {
			got = nil
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("spans %q, want %q", got, want)
	}
	for _, s := range spans.GetSpans() {
		if s.SpanContext.TraceID().String() != traceID || s.Parent.SpanID().String() != admissionID || s.EndTime.Before(s.StartTime) {
			t.Errorf("%s: %+v", s.Name, s)
		}
		for _, a := range s.Attributes {
			if v := a.Value.String(); strings.Contains(v, reg.PublicKey.String()) || strings.Contains(v, "127.0.0.1") || strings.Contains(v, "fd00:") {
				t.Errorf("%s tells %s=%s", s.Name, a.Key, v)
			}
		}
	}
}

// A pod that was admitted without a trace, or with nonsense, has none, and what a sidecar tells is bounded.
func TestJoinIsNotTraced(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	f, srv := start(t, func(o *Options) { o.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("test") })
	for i, annotation := range []string{"", "00-" + traceID + "-" + admissionID + "-00", "nonsense", strings.Repeat("0", 500)} {
		f.trace = annotation
		if code, text := call(t, srv, wire.RegisterPath, f.add(i), registration()); code != 200 {
			t.Fatal(code, text)
		}
	}
	if got := spans.GetSpans(); len(got) != 0 {
		t.Errorf("%d spans", len(got))
	}
	reg := registration()
	reg.Join = &wire.Join{Steps: make([]wire.Step, 9)}
	if code, text := call(t, srv, wire.RegisterPath, f.add(9), reg); code != 400 || !strings.Contains(text, "join.steps: 9") {
		t.Error(code, text)
	}
}
