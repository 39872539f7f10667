package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

type key struct{ pkg, test string }

// failure is a test, or a package without one to blame, and what it said of itself.
type failure struct {
	name string
	says []string
}

// summary counts the innermost tests: one with subtests counts as its subtests do, as they are what was checked.
type summary struct {
	passed, failed, skipped int
	failures                []failure
	skips                   []string

	output map[key][]string
	parent map[key]bool // tests that have subtests
	broken map[string]bool
}

func newSummary() *summary {
	return &summary{output: map[key][]string{}, parent: map[key]bool{}, broken: map[string]bool{}}
}

func (s *summary) add(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "run":
		if i := strings.LastIndex(e.Test, "/"); i > 0 {
			s.parent[key{e.Package, e.Test[:i]}] = true
		}
	case "output":
		if e.Test != "" {
			s.output[k] = append(s.output[k], e.Output)
		}
	case "pass", "fail", "skip":
		s.end(k, e.Action)
		delete(s.output, k)
	}
}

func (s *summary) end(k key, action string) {
	switch {
	case k.test == "":
		// A package may fail without a failed test: it does not build, or its TestMain or a race ended it.
		if action == "fail" && !s.broken[k.pkg] {
			s.failed++
			s.failures = append(s.failures, failure{k.pkg, s.unended(k.pkg)})
		}
	case action == "fail":
		s.broken[k.pkg] = true
		if !s.parent[k] || !s.failedBelow(k) {
			s.failed++
			s.failures = append(s.failures, failure{k.pkg + " " + k.test, complaints(s.output[k])})
		}
	case action == "skip":
		s.skipped++
		s.skips = append(s.skips, k.pkg+" "+k.test+": "+reason(s.output[k]))
	case !s.parent[k]:
		s.passed++
	}
}

func (s *summary) failedBelow(k key) bool {
	prefix := k.pkg + " " + k.test + "/"
	return slices.ContainsFunc(s.failures, func(f failure) bool { return strings.HasPrefix(f.name, prefix) })
}

// unended is what the tests complained of that a package's end took along.
func (s *summary) unended(pkg string) (all []string) {
	for _, k := range slices.SortedFunc(maps.Keys(s.output), func(a, b key) int { return strings.Compare(a.test, b.test) }) {
		if k.pkg == pkg {
			all = append(all, complaints(s.output[k])...)
		}
	}
	return all
}

// Bounds of complaints, in lines and bytes: a report names the failure, the whole of it stands above.
const (
	maxComplaints = 8
	maxComplaint  = 500
)

// complaint is a line that a test logged, as go test prints it, or the first of a panic or of a data race.
var complaint = regexp.MustCompile(`^(?: +[\w.-]+\.go:\d+: |panic: |fatal error: |WARNING: DATA RACE)`)

// complaints are the last lines of a test's output that may say what is wrong. A test ends with its first failure, and logs are
// at their longest after it: only the first line of each counts.
func complaints(output []string) (lines []string) {
	for _, l := range output {
		if complaint.MatchString(l) {
			l = strings.TrimSpace(l)
			lines = append(lines, strings.ToValidUTF8(l[:min(len(l), maxComplaint)], ""))
		}
	}
	return lines[max(0, len(lines)-maxComplaints):]
}

// reason is what the test printed last before the line that says SKIP.
func reason(output []string) string {
	for _, l := range slices.Backward(output) {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "--- ") && !strings.HasPrefix(l, "=== ") {
			return l
		}
	}
	return "no reason given"
}

func (s *summary) print(w io.Writer) {
	if len(s.skips) > 0 {
		fmt.Fprintf(w, "\n!!!! %d SKIPPED: these were NOT tested !!!!\n", len(s.skips))
		for _, l := range s.skips {
			fmt.Fprintln(w, "  SKIP", l)
		}
	}
	if len(s.failures) > 0 {
		fmt.Fprintf(w, "\n%d FAILED\n", len(s.failures))
		for _, f := range s.failures {
			fmt.Fprintln(w, "  FAIL", f.name)
			for _, l := range f.says {
				fmt.Fprintln(w, "      ", l)
			}
		}
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}

// printer shows what `go test` without -v would: a line for each package and the output of what failed.
type printer struct {
	out     io.Writer
	verbose bool
	held    map[key][]string
}

func (p *printer) line(s string) { fmt.Fprintln(p.out, s) }

func (p *printer) show(e event) {
	k := key{e.Package, e.Test}
	switch {
	case e.Action == "build-output", e.Action == "output" && (p.verbose || e.Test == ""):
		if p.verbose || !isNoise(e.Output) {
			fmt.Fprint(p.out, e.Output)
		}
	case e.Action == "output":
		if p.held == nil {
			p.held = map[key][]string{}
		}
		p.held[k] = append(p.held[k], e.Output)
	case e.Test != "" && (e.Action == "fail" || e.Action == "skip" || e.Action == "pass"):
		if e.Action != "pass" {
			fmt.Fprint(p.out, strings.Join(p.held[k], ""))
		}
		delete(p.held, k)
	case e.Test == "" && e.Action == "fail":
		p.unended(e.Package)
	}
}

// unended shows what a package's tests said that never ended, as where a panic ended them all.
func (p *printer) unended(pkg string) {
	for _, k := range slices.SortedFunc(maps.Keys(p.held), func(a, b key) int { return strings.Compare(a.test, b.test) }) {
		if k.pkg == pkg {
			fmt.Fprint(p.out, strings.Join(p.held[k], ""))
			delete(p.held, k)
		}
	}
}

func isNoise(line string) bool {
	return line == "PASS\n" || strings.Contains(line, "[no test files]") || strings.HasPrefix(line, "coverage: ")
}
