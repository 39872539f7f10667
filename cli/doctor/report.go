package doctor

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// The shape that doctor prints as JSON and YAML. Fields may be added to it; another meaning gets another version.
const (
	reportVersion = "cli.tenantwire.dev/v1alpha1"
	reportKind    = "Diagnosis"
)

// Report is what was found.
type Report struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Healthy    bool      `json:"healthy"` // no error and no warning was found
	Made       int       `json:"checksMade"`
	Findings   []Finding `json:"findings"`
	NotLooked  []Gap     `json:"notLookedAt,omitempty"`
}

// Examine makes all checks of the table, and of a path those that are about it; nil: there was none to look at.
func Examine(f *Facts, p *Path) *Report {
	r := &Report{APIVersion: reportVersion, Kind: reportKind, Findings: []Finding{}}
	gaps := maps.Clone(f.gaps)
	for _, c := range Checks() {
		if !f.known(c.needs) {
			for _, s := range c.needs {
				if g, ok := gaps[s]; ok {
					g.Checks = append(g.Checks, c.Name)
					gaps[s] = g
				}
			}
			continue
		}
		r.Made++
		if c.run != nil {
			r.add(c, c.run(f))
		}
	}
	if p != nil {
		r.walk(p)
	}
	for _, s := range slices.Sorted(maps.Keys(gaps)) {
		r.NotLooked = append(r.NotLooked, gaps[s])
	}
	r.finish()
	return r
}

func (r *Report) add(c Check, found []Finding) {
	for _, one := range found {
		one.Check, one.Severity = c.Name, c.Severity
		one.What, one.Evidence = oneLine(one.What), oneLine(one.Evidence)
		r.Findings = append(r.Findings, one)
	}
}

// finish sorts: what weighs most first.
func (r *Report) finish() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity.rank(), b.Severity.rank()), strings.Compare(a.Object, b.Object), strings.Compare(a.Check, b.Check))
	})
	r.Healthy = r.count(Error)+r.count(Warning) == 0
}

func (r *Report) count(s Severity) (n int) {
	for i := range r.Findings {
		if r.Findings[i].Severity == s {
			n++
		}
	}
	return n
}

// Print writes a report for people.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	for i := range r.Findings {
		f := &r.Findings[i]
		fmt.Fprintf(&b, "%s %s: %s\n  %s\n", strings.ToUpper(string(f.Severity)), f.Check, f.Object, f.What)
		if f.Evidence != "" {
			fmt.Fprintf(&b, "  seen by: %s\n", f.Evidence)
		}
		if f.Fix != "" {
			fmt.Fprintf(&b, "  to do:   %s\n", f.Fix)
		}
		b.WriteByte('\n')
	}
	if len(r.NotLooked) > 0 {
		b.WriteString("Not looked at:\n")
		for _, g := range r.NotLooked {
			fmt.Fprintf(&b, "- %s: %s", g.What, g.Why)
			if len(g.Checks) > 0 {
				fmt.Fprintf(&b, " (%s)", few(g.Checks))
			}
			b.WriteByte('\n')
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%d checks made: %s\n", r.Made, r.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) summary() string {
	var parts []string
	for _, s := range []struct {
		Severity
		one, many string
	}{{Error, "error", "errors"}, {Warning, "warning", "warnings"}, {Note, "note", "notes"}} {
		switch n := r.count(s.Severity); n {
		case 0:
		case 1:
			parts = append(parts, "1 "+s.one)
		default:
			parts = append(parts, fmt.Sprintf("%d %s", n, s.many))
		}
	}
	if len(parts) == 0 {
		return "nothing found"
	}
	return strings.Join(parts, ", ")
}

// oneLine makes what others wrote fit for a terminal: a line without control characters.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }), " ")
}
