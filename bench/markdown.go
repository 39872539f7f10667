package bench

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// WriteMarkdown writes the report: where it was made, verdicts, ratios, figures, and what is not in it. charts are file names.
func WriteMarkdown(w io.Writer, r *Run, long bool, charts []string) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, "# Benchmark report\n\nMade by `make bench`; see `bench/doc.go` for what the names mean. Ratios are medians of those within each round.\n\n")
	for _, f := range r.Facts {
		fmt.Fprintf(b, "- %s: %s\n", f.Name, cell(f.Value))
	}
	writeBudgets(b, r, long)
	writeRatios(b, r)
	if len(charts) > 0 {
		fmt.Fprint(b, "\n## Charts\n\n")
		for _, c := range charts {
			fmt.Fprintf(b, "![%s](%s)\n", strings.TrimSuffix(c, ".svg"), c)
		}
	}
	writeFigures(b, r)
	if len(r.Skips) > 0 {
		fmt.Fprint(b, "\n## Skipped\n\n| What | Why |\n| --- | --- |\n")
		for _, s := range r.Skips {
			fmt.Fprintf(b, "| %s | %s |\n", cell(s.What), cell(s.Why))
		}
	}
	return b.Flush()
}

func writeBudgets(w io.Writer, r *Run, long bool) {
	fmt.Fprint(w, "\n## Budgets\n\n| Budget | Contender | Reached | Target | Verdict |\n| --- | --- | --- | --- | --- |\n")
	for _, b := range Budgets {
		reached, v := b.Judge(r, long)
		figure := number(reached)
		if v == NotMeasured {
			figure = "–"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", b.Name, b.Contender, figure, b.Wants(), v)
	}
}

func writeRatios(w io.Writer, r *Run) {
	lines := r.Headlines()
	if len(lines) == 0 {
		return
	}
	fmt.Fprint(w, "\n## Ratios\n\n```\n")
	_ = WriteRatios(w, lines)
	fmt.Fprint(w, "```\n")
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
func writeFigures(w io.Writer, r *Run) {
	contenders := r.Contenders()
	fmt.Fprintf(w, "\n## Figures\n\nMedian of the rounds; ± is (largest − smallest) / median where there are several.\n\n| | Unit | %s |\n| --- | --- |%s\n",
		strings.Join(contenders, " | "), strings.Repeat(" --- |", len(contenders)))
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
