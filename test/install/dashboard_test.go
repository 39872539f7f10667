package install

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

var (
	documented = regexp.MustCompile("(?m)^\\| `((?:tenantwire|wireguard)_[a-z_]+)` \\| (counter|gauge|histogram) \\|")
	alertRow   = regexp.MustCompile("(?m)^\\| `(TenantWire[A-Za-z]+)` \\|")
)

func metricsDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// catalogued are the names that a query may use.
func catalogued(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, m := range documented.FindAllStringSubmatch(metricsDoc(t), -1) {
		if out[m[1]] = true; m[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				out[m[1]+suffix] = true
			}
		}
	}
	if len(out) < 20 {
		t.Fatalf("the catalogue has %d metrics", len(out))
	}
	return out
}

// checkQuery parses a query and looks for metrics that nobody exports.
func checkQuery(t *testing.T, where, query string, known map[string]bool) (used int) {
	t.Helper()
	expr, err := promqlParser.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, query)
		return 0
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			if used++; !known[v.Name] {
				t.Errorf("%s: %q is not in docs/metrics.md", where, v.Name)
			}
		}
		return nil
	})
	return used
}

// Alerts use metrics that there are, and the document lists the alerts that there are.
func TestAlertsAreDocumented(t *testing.T) {
	known, listed := catalogued(t), map[string]bool{}
	for _, m := range alertRow.FindAllStringSubmatch(metricsDoc(t), -1) {
		listed[m[1]] = true
	}
	for _, r := range alertRules(t) {
		if !listed[r.Alert] {
			t.Errorf("%s is not in docs/metrics.md", r.Alert)
		}
		delete(listed, r.Alert)
		if checkQuery(t, r.Alert, r.Expr, known) == 0 {
			t.Errorf("%s uses no metric", r.Alert)
		}
	}
	for name := range listed {
		t.Errorf("%s is in docs/metrics.md alone", name)
	}
}

type panel struct {
	ID      int
	Title   string
	Type    string
	Targets []struct{ Expr string }
	GridPos struct{ X, Y, W, H int }
}

// grafana stands for what Grafana puts into a query.
var grafana = strings.NewReplacer("$__rate_interval", "5m", "$namespace", ".*", "$tunnel", ".*")

// Every query of the dashboard is one that Prometheus takes, over metrics of the catalogue; and every metric of the catalogue that says
// something by itself is on it.
func TestDashboard(t *testing.T) {
	var d struct {
		UID        string
		Panels     []panel
		Templating struct {
			List []struct {
				Name, Type string
				Query      json.RawMessage
			}
		}
	}
	text := read(t, "monitoring/dashboard.json")
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	known, ids := catalogued(t), map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q: its id is there twice, or it has no title or no place", p.ID, p.Title)
		}
		ids[p.ID] = true
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %q of type %s has %d queries", p.Title, p.Type, len(p.Targets))
		}
		for _, q := range p.Targets {
			expr := grafana.Replace(q.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("panel %q: unknown variable in %s", p.Title, q.Expr)
			}
			checkQuery(t, p.Title, expr, known)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" && !regexp.MustCompile(`label_values\((tenantwire_tunnel_members)\b`).Match(v.Query) {
			t.Errorf("variable %s asks %s", v.Name, v.Query)
		}
	}
	for name := range known {
		if strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") || name == "tenantwire_injection_duration_seconds" {
			continue
		}
		if !strings.Contains(string(text), name) {
			t.Errorf("%s is not on the dashboard", name)
		}
	}
}
