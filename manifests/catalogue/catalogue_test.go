package catalogue

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The check itself finds each way to differ.
func TestCheck(t *testing.T) {
	all, err := parse("| `tenantwire_spam_total` | counter | x, b | sidecar, gateway | m |\n| `tenantwire_eggs` | gauge | | operator | m |\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, program string
		export        prometheus.Collector
		says          string // empty: nothing is wrong
	}{
		{"same", "sidecar", counter("tenantwire_spam_total", "b", "x"), ""},
		{"same", "operator", gauge("tenantwire_eggs"), ""},
		{"other labels", "sidecar", counter("tenantwire_spam_total", "b"), "labels [b], in the catalogue [b x]"},
		{"other type", "sidecar", gauge("tenantwire_spam_total", "b", "x"), "a gauge, in the catalogue a counter"},
		{"another program", "operator", counter("tenantwire_spam_total", "b", "x"), "not in the catalogue"},
		{"undocumented", "sidecar", counter("tenantwire_ham_total"), "tenantwire_ham_total: not in the catalogue"},
		{"absent", "sidecar", gauge("go_threads"), "which does not export it"},
		{"bad name", "operator", counter("tenantwire_eggs"), "_total"},
	} {
		reg := prometheus.NewRegistry()
		reg.MustRegister(c.export)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(Check(all, c.program, families), "\n")
		if (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, want %q", c.name, got, c.says)
		}
	}
	if _, err := Read(); err != nil {
		t.Error(err)
	}
}

func counter(name string, labels ...string) prometheus.Collector {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "h"}, labels)
	c.WithLabelValues(make([]string, len(labels))...)
	return c
}

func gauge(name string, labels ...string) prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "h"}, labels)
	g.WithLabelValues(make([]string, len(labels))...)
	return g
}
