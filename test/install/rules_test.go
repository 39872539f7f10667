package install

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"sigs.k8s.io/yaml"
)

// alertRule is one of alerts.yaml.
type alertRule struct {
	Alert               string
	Expr                string
	For                 string
	Labels, Annotations map[string]string
}

func alertRules(t *testing.T) []alertRule {
	t.Helper()
	var file struct {
		Spec struct{ Groups []struct{ Rules []alertRule } }
	}
	if err := yaml.Unmarshal(read(t, "monitoring/alerts.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	var out []alertRule
	for _, g := range file.Spec.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

// alertCase is a test in the format of `promtool test rules`.
type alertCase struct {
	Name        string
	Interval    string
	InputSeries []struct{ Series, Values string } `json:"input_series"`
	Tests       []struct {
		EvalTime  string `json:"eval_time"`
		Alertname string
		ExpAlerts []struct {
			Labels      map[string]string `json:"exp_labels"`
			Annotations map[string]string `json:"exp_annotations"`
		} `json:"exp_alerts"`
	} `json:"alert_rule_test"`
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := model.ParseDuration(s)
	if err != nil {
		t.Fatalf("duration %q: %v", s, err)
	}
	return time.Duration(d)
}

// TestAlerts evaluates every alert over planted series with Prometheus' own engine, as promtool does. Every alert has to fire in one case
// and to be silent at a time of one where all the others' series are; an alert that no test expects must not fire.
func TestAlerts(t *testing.T) {
	b, err := os.ReadFile("alerts_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Tests []alertCase }
	if err := yaml.UnmarshalStrict(b, &file); err != nil {
		t.Fatal(err)
	}
	fired, silent := map[string]bool{}, map[string]bool{}
	for _, c := range file.Tests {
		t.Run(c.Name, func(t *testing.T) { c.run(t, fired, silent) })
	}
	for _, r := range alertRules(t) {
		if !fired[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: fires in a test: %t, is silent in one: %t", r.Alert, fired[r.Alert], silent[r.Alert])
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" || r.For == "" {
			t.Errorf("%s lacks a summary, a description, a severity or a time", r.Alert)
		}
	}
}

func (c alertCase) run(t *testing.T, fired, silent map[string]bool) {
	var load strings.Builder
	fmt.Fprintf(&load, "load %s\n", c.Interval)
	for _, s := range c.InputSeries {
		fmt.Fprintf(&load, "  %s %s\n", s.Series, s.Values)
	}
	l, err := promqltest.NewLazyLoader(load.String(), promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	list := parsedRules(t)
	want := map[time.Duration]map[string][]string{}
	var last time.Duration
	for _, x := range c.Tests {
		at := duration(t, x.EvalTime)
		last = max(last, at)
		if want[at] == nil {
			want[at] = map[string][]string{}
		}
		want[at][x.Alertname] = []string{}
		for _, e := range x.ExpAlerts {
			want[at][x.Alertname] = append(want[at][x.Alertname], describe(e.Labels, e.Annotations))
		}
	}
	query := rules.EngineQueryFunc(l.QueryEngine(), l.Queryable())
	for at := time.Duration(0); at <= last; at += duration(t, c.Interval) {
		ts := time.Unix(0, 0).UTC().Add(at)
		l.WithSamplesTill(ts, func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		})
		for _, r := range list {
			if _, err := r.Eval(context.Background(), 0, ts, query, &url.URL{}, 0); err != nil {
				t.Fatalf("%s: %v", r.Name(), err)
			}
		}
		if want[at] != nil {
			compareAlerts(t, at, list, want[at], fired, silent)
		}
	}
}

// compareAlerts looks at every alert: those that a test does not name have to be silent.
func compareAlerts(t *testing.T, at time.Duration, list []*rules.AlertingRule, want map[string][]string, fired, silent map[string]bool) {
	t.Helper()
	for _, r := range list {
		var got []string
		for _, a := range r.ActiveAlerts() {
			if a.State == rules.StateFiring {
				l := a.Labels.Map()
				delete(l, "alertname")
				got = append(got, describe(l, a.Annotations.Map()))
			}
		}
		slices.Sort(got)
		wanted := want[r.Name()]
		slices.Sort(wanted)
		fired[r.Name()] = fired[r.Name()] || len(got) > 0
		silent[r.Name()] = silent[r.Name()] || len(got) == 0
		if !slices.Equal(got, wanted) {
			t.Errorf("at %s %s fires:\n%s\nwant:\n%s", at, r.Name(), strings.Join(got, "\n"), strings.Join(wanted, "\n"))
		}
	}
}

// describe is an alert in one line: its labels and what it says in short.
func describe(labels, annotations map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "%s=%s ", k, labels[k])
	}
	return b.String() + annotations["summary"]
}

func parsedRules(t *testing.T) []*rules.AlertingRule {
	t.Helper()
	var out []*rules.AlertingRule
	for _, r := range alertRules(t) {
		expr, err := promqlParser.ParseExpr(r.Expr)
		if err != nil {
			t.Fatalf("%s: %v", r.Alert, err)
		}
		out = append(out, rules.NewAlertingRule(r.Alert, expr, duration(t, r.For), 0, labels.FromMap(r.Labels), labels.FromMap(r.Annotations),
			labels.EmptyLabels(), "", true, slog.New(slog.DiscardHandler)))
	}
	return out
}

var promqlParser = parser.NewParser(parser.Options{})
