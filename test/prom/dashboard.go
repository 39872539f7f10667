package prom

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Panel is one of the dashboard.
type Panel struct {
	Title   string
	Targets []struct{ Expr string }
}

// Panels are those of the dashboard that ask something.
func Panels() (out []Panel, err error) {
	b, err := os.ReadFile(filepath.Join(monitoring(), "dashboard.json"))
	if err != nil {
		return nil, err
	}
	var d struct{ Panels []Panel }
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("dashboard.json: %w", err)
	}
	for _, p := range d.Panels {
		if len(p.Targets) > 0 {
			out = append(out, p)
		}
	}
	return out, nil
}

// Queries are what it asks of a namespace, with what Grafana puts in place of its variables.
func (p Panel) Queries(namespace string) (out []string) {
	replace := strings.NewReplacer("$__rate_interval", "5m", "$namespace", namespace, "$tunnel", ".*")
	for _, t := range p.Targets {
		out = append(out, replace.Replace(t.Expr))
	}
	return out
}
