package exposition

import (
	"errors"
	"math"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func parse(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus cannot read it: %v\n%s", err, text)
	}
	return families
}

func written(t *testing.T, text *Text) string {
	t.Helper()
	var b strings.Builder
	if err := text.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestText: families come one after the other whatever the order of their samples, with help, types and labels that say what was meant.
func TestText(t *testing.T) {
	packets := &Family{Name: "packets_total", Help: "Packets, with a \\ and\na line.", Type: Counter, Labels: []string{"from", "why"}}
	up := &Family{Name: "up", Help: "One.", Type: Gauge}
	awkward := "a \"quote\", a \\ and\na line"
	var text Text
	text.Add(packets, 1, "a", awkward)
	text.Add(up, 0.25)
	text.Add(packets, math.MaxUint32, "b", "not UTF-8: \xff")
	got := parse(t, written(t, &text))
	p := got["packets_total"]
	if p.GetHelp() != packets.Help || p.GetType() != dto.MetricType_COUNTER || len(p.GetMetric()) != 2 {
		t.Errorf("packets: %v", p)
	}
	if l := p.GetMetric()[0].GetLabel(); l[0].GetName() != "from" || l[0].GetValue() != "a" || l[1].GetValue() != awkward {
		t.Errorf("labels: %v", l)
	}
	if v := p.GetMetric()[1].GetCounter().GetValue(); v != math.MaxUint32 {
		t.Errorf("packets: %v, want %v", v, math.MaxUint32)
	}
	if v := got["up"].GetMetric()[0].GetGauge().GetValue(); got["up"].GetType() != dto.MetricType_GAUGE || v != 0.25 {
		t.Errorf("up: %v", got["up"])
	}
}

func TestNumbers(t *testing.T) {
	f := &Family{Name: "f", Help: "F.", Type: Gauge, Labels: []string{"n"}}
	for _, v := range []float64{0, -1, 1e300, 5e-324, 1732579200.123456, math.Inf(1), math.Inf(-1), math.NaN()} {
		var text Text
		text.Add(f, v, "x")
		got := parse(t, written(t, &text))["f"].GetMetric()[0].GetGauge().GetValue()
		if got != v && !(math.IsNaN(v) && math.IsNaN(got)) {
			t.Errorf("%v is read as %v", v, got)
		}
	}
}

// FuzzLabel: no value of a label can break a line or make another.
func FuzzLabel(f *testing.F) {
	f.Add("plain")
	f.Add("\"} 1\nother{x=\"")
	f.Add("\\")
	f.Fuzz(func(t *testing.T, value string) {
		family := &Family{Name: "f", Help: "F.", Type: Gauge, Labels: []string{"n"}}
		var text Text
		text.Add(family, 1, value)
		got := parse(t, written(t, &text))
		if len(got) != 1 || len(got["f"].GetMetric()) != 1 {
			t.Fatalf("%q makes %v", value, got)
		}
		if v := got["f"].GetMetric()[0].GetLabel()[0].GetValue(); v != strings.ToValidUTF8(value, "\uFFFD") {
			t.Errorf("%q is read as %q", value, v)
		}
	})
}

func TestWrongLabels(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a value too few is taken")
		}
	}()
	new(Text).Add(&Family{Name: "f", Labels: []string{"a"}}, 1)
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestWriterFails(t *testing.T) {
	var text Text
	text.Add(&Family{Name: "f", Help: "F.", Type: Gauge}, 1)
	if err := text.Write(broken{}); err == nil {
		t.Error("no error")
	}
}
