package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// example is a run with all that a report can show: rounds, skips, a contender that lacks a scenario, text that must be escaped.
func example() *Run {
	r := &Run{Skips: []Skip{{"vxlan", "the kernel has no vxlan"}}}
	for round, factor := range []float64{1, 2, 1.5} { // the machine's speed changes, the ratio within a round much less
		add := func(c, scenario, unit string, v float64) { r.Add(Sample{c, scenario, round + 1, unit, v}) }
		add(Yardstick, "up1", Throughput, 1000*factor)
		add(Yardstick, "up1", CPU, 2)
		add(Yardstick, "rtt-load", P50, 48)
		add("netstack-sym", "up1", Throughput, (1700+10*float64(round))*factor)
		add("netstack-sym", "up1", CPU, 1)
		add("netstack-sym", "rtt-load", P50, 0.8)
		add("netstack-sym", "conns", Errors, 0)
	}
	r.Add(Sample{"netstack", "up1", 1, CPU, 1})
	r.Add(Sample{"stock", "up1", 1, CPU, 3})
	r.Add(Sample{"a<b", "up32", 1, Fairness, 0.5})
	r.Add(Sample{"sidecar", "size", 1, Megabytes, 14.2})
	return r
}

// exampleReport is that run, and a smaller one within a limit.
func exampleReport() *Report {
	limited := &Run{Limit: "half a CPU"}
	limited.Add(Sample{Yardstick, "up1", 1, Throughput, 100})
	limited.Add(Sample{"netstack-sym", "up1", 1, Throughput, 150})
	return &Report{Facts: []Fact{{"Machine", "2 x Example | CPU"}, {"Command", "bench --quick"}}, Runs: []*Run{example(), limited}}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", name, diff)
	}
}

func TestReportGolden(t *testing.T) {
	var text, md, svg bytes.Buffer
	if err := errors.Join(WriteGoBench(&text, exampleReport()), WriteMarkdown(&md, exampleReport(), []string{"throughput.svg"})); err != nil {
		t.Fatal(err)
	}
	golden(t, "bench.txt", text.Bytes())
	golden(t, "report.md", md.Bytes())
	drawn, err := WriteSVG(&svg, example(), Charts[0])
	if err != nil || !drawn {
		t.Fatal(drawn, err)
	}
	golden(t, "throughput.svg", svg.Bytes())
}

func TestGoBenchComesBack(t *testing.T) {
	var text bytes.Buffer
	want := exampleReport()
	if err := WriteGoBench(&text, want); err != nil {
		t.Fatal(err)
	}
	got, err := ParseGoBench(&text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Runs, got.Runs); diff != "" {
		t.Error(diff)
	}
}

func TestParseGoBenchRefuses(t *testing.T) {
	for _, text := range []string{"BenchmarkOther 1 5 ns/op", "BenchmarkTunnel/scenario=a/contender=b 1 5", "BenchmarkTunnel/scenario=a/contender=b 1 x y"} {
		if _, err := ParseGoBench(strings.NewReader(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func FuzzParseGoBench(f *testing.F) {
	f.Add("BenchmarkTunnel/scenario=up1/contender=stock 1 5 Mbit/s 2 s/GB")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseGoBench(strings.NewReader(text))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteGoBench(&again, r); err != nil {
			t.Error(err)
		}
	})
}

func TestEveryChartIsXML(t *testing.T) {
	r := example()
	for _, m := range Metrics {
		r.Add(Sample{"x&y", m.Scenario, 1, m.Unit, 3})
		r.Add(Sample{"zero", m.Scenario, 1, m.Unit, 0})
	}
	for _, c := range Charts {
		var b bytes.Buffer
		if drawn, err := WriteSVG(&b, r, c); err != nil || !drawn {
			t.Fatalf("%s: %v %v", c.File, drawn, err)
		}
		for d := xml.NewDecoder(&b); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.File, err)
			}
		}
		if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
			t.Errorf("%s has a bar of no length", c.File)
		}
	}
	if drawn, _ := WriteSVG(io.Discard, &Run{}, Charts[0]); drawn {
		t.Error("a chart of nothing")
	}
}
