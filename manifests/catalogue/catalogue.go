// Package catalogue holds what programs export against docs/metrics.md. It is for tests.
package catalogue

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// Metric is a line of the catalogue.
type Metric struct {
	Name   string
	Type   string   // counter, gauge or histogram
	Labels []string // sorted
	Of     []string // sidecar, gateway, operator
}

var line = regexp.MustCompile("^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\| ([a-z_, ]*)\\| ([a-z, ]+) \\| .+ \\|$")

// Read is the catalogue of docs/metrics.md.
func Read() (map[string]Metric, error) {
	text, err := document()
	if err != nil {
		return nil, err
	}
	return parse(text)
}

func document() (string, error) {
	_, here, _, _ := runtime.Caller(0)
	b, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "docs", "metrics.md")) //nolint:gosec // a document of ours
	if err != nil {
		return "", fmt.Errorf("read the catalogue: %w", err)
	}
	return string(b), nil
}

func parse(text string) (map[string]Metric, error) {
	out := map[string]Metric{}
	for l := range strings.Lines(text) {
		f := line.FindStringSubmatch(strings.TrimSpace(l))
		if f == nil {
			continue
		}
		if _, twice := out[f[1]]; twice {
			return nil, fmt.Errorf("parse the catalogue: %s is there twice", f[1])
		}
		out[f[1]] = Metric{f[1], f[2], words(f[3]), words(f[4])}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("parse the catalogue: no metric in %d bytes", len(text))
	}
	return out, nil
}

func words(list string) []string {
	return slices.Sorted(strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }))
}

// Check says what of ours a program exports that is not in the catalogue, or not as it is there, and what is there and not exported.
// What libraries export is not looked at. A name that is not one by Prometheus' rules is a problem too.
func Check(all map[string]Metric, program string, exported []*dto.MetricFamily) []string {
	var problems []string
	var ours []*dto.MetricFamily
	missing := map[string]bool{}
	for name, m := range all {
		missing[name] = slices.Contains(m.Of, program)
	}
	for _, f := range exported {
		if !strings.HasPrefix(f.GetName(), "tenantwire_") && !strings.HasPrefix(f.GetName(), "wireguard_") {
			continue
		}
		ours = append(ours, f)
		m, ok := all[f.GetName()]
		if !ok || !slices.Contains(m.Of, program) {
			problems = append(problems, fmt.Sprintf("%s: not in the catalogue as one of %s", f.GetName(), program))
			continue
		}
		missing[f.GetName()] = false
		problems = append(problems, m.check(f)...)
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if missing[name] {
			problems = append(problems, fmt.Sprintf("%s: in the catalogue as one of %s, which does not export it", name, program))
		}
	}
	found, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, p := range found {
		problems = append(problems, p.Metric+": "+p.Text)
	}
	return problems
}

func (m Metric) check(f *dto.MetricFamily) []string {
	var problems []string
	if got := strings.ToLower(f.GetType().String()); got != m.Type {
		problems = append(problems, fmt.Sprintf("%s: a %s, in the catalogue a %s", m.Name, got, m.Type))
	}
	if f.GetHelp() == "" {
		problems = append(problems, m.Name+": no help")
	}
	for _, series := range f.GetMetric() {
		var labels []string
		for _, l := range series.GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		if !slices.Equal(labels, m.Labels) {
			return append(problems, fmt.Sprintf("%s: labels %v, in the catalogue %v", m.Name, labels, m.Labels))
		}
	}
	return problems
}
