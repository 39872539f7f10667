package prom

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"sigs.k8s.io/yaml"
)

// What times are divided by.
const (
	forScale   = 60
	rangeScale = 10
)

// rule is one alert.
type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type group struct {
	Name     string `json:"name"`
	Interval string `json:"interval,omitempty"`
	Rules    []rule `json:"rules"`
}

// alertGroups are the alerts as they are shipped.
func alertGroups() ([]group, error) {
	b, err := os.ReadFile(filepath.Join(monitoring(), "alerts.yaml"))
	if err != nil {
		return nil, err
	}
	var file struct {
		Spec struct {
			Groups []group `json:"groups"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		return nil, fmt.Errorf("alerts.yaml: %w", err)
	}
	return file.Spec.Groups, nil
}

// AlertNames are the names of all alerts that are shipped.
func AlertNames() (out []string, err error) {
	groups, err := alertGroups()
	for _, g := range groups {
		for _, r := range g.Rules {
			out = append(out, r.Alert)
		}
	}
	return out, err
}

// scaledRules are the alerts for a rule file, evaluated every second.
func scaledRules() (object, error) {
	groups, err := alertGroups()
	if err != nil {
		return nil, err
	}
	for i := range groups {
		groups[i].Interval = "1s"
		for j := range groups[i].Rules {
			r := &groups[i].Rules[j]
			d, err := time.ParseDuration(r.For)
			if err != nil {
				return nil, fmt.Errorf("alert %s: for: %w", r.Alert, err)
			}
			r.For = fmt.Sprintf("%dms", (d / forScale).Milliseconds())
			r.Expr = Scaled(r.Expr)
		}
	}
	return object{"groups": groups}, nil
}

var rangeOf = regexp.MustCompile(`\[(\d+)([mh])\]`)

// Scaled is a query with its ranges scaled down; it has nothing but whole minutes and hours in them.
func Scaled(query string) string {
	return rangeOf.ReplaceAllStringFunc(query, func(s string) string {
		d, err := time.ParseDuration(s[1 : len(s)-1])
		if err != nil {
			return s
		}
		return fmt.Sprintf("[%ds]", int((d / rangeScale).Seconds()))
	})
}
