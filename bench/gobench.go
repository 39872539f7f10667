package bench

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// WriteGoBench writes the samples as go test -bench prints them, one line for each contender, scenario and round:
//
//	benchstat -col /contender -filter 'scenario:up1' bench.txt
//
// Facts become the configuration lines of the format, skips its comments.
func WriteGoBench(w io.Writer, r *Run) error {
	b := bufio.NewWriter(w)
	for _, f := range r.Facts {
		fmt.Fprintf(b, "%s: %s\n", factKey(f.Name), oneLine(f.Value))
	}
	fmt.Fprintln(b, "pkg: github.com/tenantwire/tenantwire/bench")
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
	return b.Flush()
}

// ParseGoBench reads what WriteGoBench wrote; the rounds of a contender and scenario are counted as they come.
func ParseGoBench(rd io.Reader) (*Run, error) {
	r := &Run{}
	rounds := map[string]int{}
	for sc := bufio.NewScanner(rd); ; {
		if !sc.Scan() {
			return r, sc.Err()
		}
		text := sc.Text()
		fields := strings.Fields(text)
		if skip, ok := strings.CutPrefix(text, "# skipped "); ok {
			what, why, _ := strings.Cut(skip, ": ")
			r.Skips = append(r.Skips, Skip{what, why})
			continue
		}
		if len(fields) == 0 || !strings.HasPrefix(fields[0], "Benchmark") {
			if name, value, ok := strings.Cut(text, ": "); ok && name != "pkg" {
				r.Facts = append(r.Facts, Fact{name, value})
			}
			continue
		}
		rounds[fields[0]]++
		if err := parseLine(r, fields, rounds[fields[0]]); err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
	}
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
