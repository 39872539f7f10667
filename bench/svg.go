package bench

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// Chart is horizontal bars: a group for each metric, a bar for each contender, ends marked by the lowest and highest round.
type Chart struct {
	File, Title, Unit string
	Metrics           []string
	Log               bool // where values lie orders of magnitude apart
}

// Charts are those of the report.
var Charts = []Chart{
	{"throughput.svg", "Throughput, more is better", Throughput, []string{"up1", "down1", "up8", "down8", "up32", "down32", "down-load"}, false},
	{"cpu.svg", "CPU of the near end, less is better", CPU, []string{"cpu-up1", "cpu-down1", "cpu-up8", "cpu-down8"}, false},
	{"latency.svg", "A request, less is better (logarithmic)", "ms", []string{"rtt", "rtt99", "rtt-load", "rtt99-load"}, true},
	{"memory.svg", "Memory of the near end, less is better (logarithmic)", "MiB", []string{"rss-idle", "rss-peers", "rss-conns", "rss-any"}, true},
	{"connections.svg", "Connections per second, more is better", PerSecond, []string{"conns", "churn"}, false},
	{"fairness.svg", "Jain fairness, 1 is fair", Fairness, []string{"jain-up8", "jain-down8", "jain-up32", "jain-down32"}, false},
}

// Colours tell contenders apart without red against green, on white and on dark.
var colours = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b8a000", "#6a3d9a", "#33a02c"}

const (
	chartWidth, labelWidth, valueWidth = 820, 150, 80
	barHeight, groupGap, headHeight    = 14, 26, 34
)

type bar struct {
	contender        string
	low, mid, high   float64
	colour, valueTip string
}

type group struct {
	title string
	bars  []bar
}

// WriteSVG draws a chart; false when there is nothing to draw.
func WriteSVG(w io.Writer, r *Run, c Chart) (bool, error) {
	groups, top, low := c.groups(r)
	if len(groups) == 0 {
		return false, nil
	}
	height := headHeight
	for _, g := range groups {
		height += groupGap + len(g.bars)*barHeight
	}
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="11">`+"\n",
		chartWidth, height+10)
	fmt.Fprintf(b, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n"+`<text x="10" y="20" font-size="14" font-weight="bold">%s (%s)</text>`+"\n",
		escape(c.Title), escape(c.Unit))
	y := headHeight
	for _, g := range groups {
		fmt.Fprintf(b, `<text x="10" y="%d" font-weight="bold">%s</text>`+"\n", y+16, escape(g.title))
		y += groupGap - 4
		for _, one := range g.bars {
			one.draw(b, y, func(v float64) float64 { return c.scale(v, low, top) })
			y += barHeight
		}
		y += 4
	}
	fmt.Fprintln(b, "</svg>")
	return true, b.Flush()
}

func (c Chart) groups(r *Run) (out []group, top, low float64) {
	low = math.Inf(1)
	contenders := r.Contenders()
	for _, name := range c.Metrics {
		m, ok := MetricNamed(name)
		if !ok {
			continue
		}
		g := group{title: m.Title}
		for i, contender := range contenders {
			values := r.Values(contender, m)
			if len(values) == 0 {
				continue
			}
			one := bar{contender, Percentile(values, 0), Median(values), Percentile(values, 100), colours[i%len(colours)], ""}
			one.valueTip = number(one.mid)
			top = max(top, one.high)
			if one.low > 0 {
				low = min(low, one.low)
			}
			g.bars = append(g.bars, one)
		}
		if len(g.bars) > 0 {
			out = append(out, g)
		}
	}
	return out, top, low
}

// scale is a value's place between the edges, 0 to 1.
func (c Chart) scale(v, low, top float64) float64 {
	switch {
	case top <= 0 || v <= 0:
		return 0
	case !c.Log:
		return v / top
	}
	low = math.Pow(10, math.Floor(math.Log10(low))) // the axis begins at a power of ten, so that the least has a bar too
	if low == top {
		return 1
	}
	return math.Log(v/low) / math.Log(top/low)
}

func (one bar) draw(w io.Writer, y int, scale func(float64) float64) {
	const room = chartWidth - labelWidth - valueWidth
	x := func(v float64) float64 { return labelWidth + room*scale(v) }
	fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-6, y+barHeight-4, escape(one.contender))
	fmt.Fprintf(w, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, labelWidth, y+1, x(one.mid)-labelWidth, barHeight-3, one.colour)
	if one.high > one.low {
		fmt.Fprintf(w, `<path d="M%.1f %d H%.1f" stroke="#000000"/>`, x(one.low), y+barHeight/2, x(one.high))
	}
	fmt.Fprintf(w, `<text x="%.1f" y="%d">%s</text>`+"\n", max(x(one.high), x(one.mid))+4, y+barHeight-4, escape(one.valueTip))
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder does not fail
	return b.String()
}
