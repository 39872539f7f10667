package catalogue

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestValues(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want []string // nil: not a fixed list
		says string   // of the error
	}{
		"all":         {"| reason, of eggs | `Raw`, `Boiled` | 2; those that occurred |", []string{"Boiled", "Raw"}, ""},
		"one missing": {"| reason, of eggs | `Raw`, ... | 2 |", nil, "has 1 values, and says 2"},
		"words":       {"| reason, of eggs | kinds of eggs | 2 |", nil, ""},
		"not a bound": {"| reason, of eggs | `Raw`, `Boiled` | 1 a plate |", nil, ""},
	} {
		got, err := parseValues(c.line + "\n")
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if !slices.Equal(got["reason, of eggs"], c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	all, err := Values()
	if err != nil || len(all) < 8 {
		t.Errorf("the document has %d lists: %v", len(all), err)
	}
}

func TestExported(t *testing.T) {
	eggs := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tenantwire_eggs_total", Help: "h"}, []string{"of", "reason"})
	for _, l := range [][2]string{{"duck", "Raw"}, {"duck", "Boiled"}, {"hen", "Raw"}} {
		eggs.WithLabelValues(l[0], l[1]).Inc()
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(eggs, counter("tenantwire_spam_total", "reason"))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if got := Exported(families, "tenantwire_eggs_total", "reason"); !slices.Equal(got, []string{"Boiled", "Raw"}) {
		t.Errorf("%q", got)
	}
}
