package bench

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// WriteGoBench writes the samples as go test -bench prints them, one line for each contender, scenario and round:
//
//	benchstat -col /contender -filter '/scenario:up1 limit:none' bench.txt
//
// Facts and limits become the configuration lines of the format, skips its comments.
func WriteGoBench(w io.Writer, r *Report) error {
	b := bufio.NewWriter(w)
	for _, f := range r.Facts {
		fmt.Fprintf(b, "%s: %s\n", factKey(f.Name), oneLine(f.Value))
	}
	fmt.Fprintln(b, "pkg: github.com/tenantwire/tenantwire/bench")
	for _, run := range r.Runs {
		fmt.Fprintf(b, "%s: %s\n", limitKey, cmp.Or(oneLine(run.Limit), noLimit))
		run.writeGoBench(b)
	}
	return b.Flush()
}

// A line "limit: NAME" begins a run.
const limitKey, noLimit = "limit", "none"

func (r *Run) writeGoBench(b io.Writer) {
	for _, s := range r.Skips {
		fmt.Fprintf(b, "# skipped %s: %s\n", oneLine(s.What), oneLine(s.Why))
	}
	type line struct {
		contender, scenario string
		round               int
	}
	var order []line
	values := map[line][]string{}
	for _, s := range r.Samples {
		l := line{s.Contender, s.Scenario, s.Round}
		if !slices.Contains(order, l) {
			order = append(order, l)
		}
		values[l] = append(values[l], strconv.FormatFloat(s.Value, 'g', 6, 64)+" "+s.Unit)
	}
	for _, l := range order {
		fmt.Fprintf(b, "BenchmarkTunnel/scenario=%s/contender=%s 1 %s\n", l.scenario, l.contender, strings.Join(values[l], " "))
	}
}

// ParseGoBench reads what WriteGoBench wrote; the rounds of a contender and scenario are counted as they come.
func ParseGoBench(rd io.Reader) (*Report, error) {
	p := parser{report: &Report{}}
	sc := bufio.NewScanner(rd)
	for sc.Scan() {
		if err := p.line(sc.Text()); err != nil {
			return nil, fmt.Errorf("%q: %w", sc.Text(), err)
		}
	}
	return p.report, sc.Err()
}

type parser struct {
	report *Report
	run    *Run
	rounds map[string]int // how often a contender and scenario came in this run
}

func (p *parser) line(text string) error {
	if limit, ok := strings.CutPrefix(text, limitKey+": "); ok {
		p.begin(limit)
		return nil
	}
	if skip, ok := strings.CutPrefix(text, "# skipped "); ok {
		what, why, _ := strings.Cut(skip, ": ")
		p.current().Skips = append(p.current().Skips, Skip{what, why})
		return nil
	}
	fields := strings.Fields(text)
	if len(fields) > 0 && strings.HasPrefix(fields[0], "Benchmark") {
		run := p.current()
		p.rounds[fields[0]]++
		return parseLine(run, fields, p.rounds[fields[0]])
	}
	if name, value, ok := strings.Cut(text, ": "); ok && name != "pkg" {
		p.report.Facts = append(p.report.Facts, Fact{name, value})
	}
	return nil
}

func (p *parser) begin(limit string) {
	if limit == noLimit {
		limit = ""
	}
	p.run, p.rounds = &Run{Limit: limit}, map[string]int{}
	p.report.Runs = append(p.report.Runs, p.run)
}

// current is the run of a line; text that names no limit has one all the same.
func (p *parser) current() *Run {
	if p.run == nil {
		p.begin(noLimit)
	}
	return p.run
}

func parseLine(r *Run, fields []string, round int) error {
	_, name, ok := strings.Cut(fields[0], "/scenario=")
	scenario, contender, found := strings.Cut(name, "/contender=")
	if !ok || !found {
		return fmt.Errorf("not a line of this benchmark")
	}
	if len(fields)%2 != 0 {
		return fmt.Errorf("a value without a unit")
	}
	for i := 2; i < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return err
		}
		r.Add(Sample{contender, scenario, round, fields[i+1], v})
	}
	return nil
}

// factKey is a name as the format wants it: lower case, no space.
func factKey(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "-")) }

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
