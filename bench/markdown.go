package bench

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// WriteMarkdown writes the report: where it was made, and of every run verdicts, ratios, figures and what is not in it. charts are
// the file names of the first run's.
func WriteMarkdown(w io.Writer, r *Report, charts []string) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, "# Benchmark report\n\nMade by `make bench`; see `bench/doc.go` for what the names mean. Ratios are medians of those within each round.\n\n")
	for _, f := range r.Facts {
		fmt.Fprintf(b, "- %s: %s\n", f.Name, cell(f.Value))
	}
	long := slices.ContainsFunc(r.Runs, func(r *Run) bool { return r.Long })
	for i, run := range r.Runs {
		head := "##"
		if run.Limit != "" {
			fmt.Fprintf(b, "\n## With %s\n", run.Limit)
			head = "###"
		}
		writeBudgets(b, head, run, long)
		writePeers(b, head, run)
		writeRatios(b, head, run)
		if i == 0 {
			writeCharts(b, head, charts)
		}
		writeFigures(b, head, run)
		writeSkips(b, head, run)
	}
	return b.Flush()
}

// writeBudgets leaves out, within a limit, what was not to be measured there; and what only a long run shows, where another is one.
func writeBudgets(w io.Writer, head string, r *Run, long bool) {
	fmt.Fprintf(w, "\n%s Budgets\n\n| Budget | Contender | Reached | Target | Verdict |\n| --- | --- | --- | --- | --- |\n", head)
	for _, b := range Budgets {
		reached, v := b.Judge(r)
		figure := number(reached)
		if v == NotMeasured {
			if r.Limit != "" || b.LongOnly && long {
				continue
			}
			figure = "–"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", b.Name, b.Contender, figure, b.Wants(), v)
	}
}

// writePeers says of every userspace peer whether we are ahead of it, in each figure that a budget is of.
func writePeers(w io.Writer, head string, r *Run) {
	rows := AheadOf(r)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s Ahead of every userspace peer\n\n| Figure | Contender | Reached | Target | Verdict |\n| --- | --- | --- | --- | --- |\n", head)
	for _, b := range rows {
		reached, v := b.Judge(r)
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", b.Name, b.Contender, number(reached), b.Wants(), v)
	}
}

func writeRatios(w io.Writer, head string, r *Run) {
	lines := r.Headlines()
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s Ratios\n\n```\n", head)
	_ = WriteRatios(w, lines)
	fmt.Fprint(w, "```\n")
}

func writeCharts(w io.Writer, head string, charts []string) {
	if len(charts) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s Charts\n\n", head)
	for _, c := range charts {
		fmt.Fprintf(w, "![%s](%s)\n", strings.TrimSuffix(c, ".svg"), c)
	}
}

func writeSkips(w io.Writer, head string, r *Run) {
	if len(r.Skips) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s Skipped\n\n| What | Why |\n| --- | --- |\n", head)
	for _, s := range r.Skips {
		fmt.Fprintf(w, "| %s | %s |\n", cell(s.What), cell(s.Why))
	}
}

// WriteRatios prints one ratio a line for programs to read: ratio NAME VALUE.
func WriteRatios(w io.Writer, lines []Headline) error {
	for _, h := range lines {
		if _, err := fmt.Fprintf(w, "ratio %s %.3f\n", h.Name, h.Value); err != nil {
			return err
		}
	}
	return nil
}

// writeFigures writes one table: a row for each metric, a column for each contender, the median with the spread of the rounds.
func writeFigures(w io.Writer, head string, r *Run) {
	contenders := r.Contenders()
	fmt.Fprintf(w, "\n%s Figures\n\nMedian of the rounds; ± is (largest − smallest) / median where there are several.\n\n| | Unit | %s |\n| --- | --- |%s\n",
		head, strings.Join(contenders, " | "), strings.Repeat(" --- |", len(contenders)))
	var seen []Metric
	for _, m := range Metrics {
		same := func(o Metric) bool { return o.Scenario == m.Scenario && o.Unit == m.Unit }
		if slices.ContainsFunc(seen, same) {
			continue
		}
		seen = append(seen, m)
		row, any := "", false
		for _, c := range contenders {
			values := r.Values(c, m)
			any = any || len(values) > 0
			row += " " + figure(values) + " |"
		}
		if any {
			fmt.Fprintf(w, "| %s | %s |%s\n", m.Title, m.Unit, row)
		}
	}
}

func figure(values []float64) string {
	switch len(values) {
	case 0:
		return ""
	case 1:
		return number(values[0])
	}
	text := number(Median(values))
	if s := Spread(values); !math.IsNaN(s) {
		text += fmt.Sprintf(" ±%.0f%%", s*100)
	}
	return text
}

// number has three figures and no exponent.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// cell keeps text from ending a table's cell or line.
func cell(s string) string { return strings.ReplaceAll(oneLine(s), "|", "\\|") }
