package bench

import (
	"math"
	"slices"
	"strings"
)

// Sample is one figure of one contender in one round.
type Sample struct {
	Contender string
	Scenario  string
	Round     int // from 1
	Unit      string
	Value     float64
}

// Skip is something that was not measured, and why.
type Skip struct{ What, Why string }

// Fact is a line about where and how the run was made.
type Fact struct{ Name, Value string }

// Run is everything that the rounds under one limit have found.
type Run struct {
	Limit   string // on the tunnel's processes, or what else sets it apart, in words; empty: nothing
	Long    bool   // it shows what only a long run can
	Samples []Sample
	Skips   []Skip
}

// Report is a whole benchmark: the machine as it is first, then what is measured again within limits.
type Report struct {
	Facts []Fact
	Runs  []*Run
}

// Add notes a figure; one that could not be made out is left away, not written as a number.
func (r *Run) Add(s Sample) {
	if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) {
		return
	}
	r.Samples = append(r.Samples, s)
}

// Metric is a figure under the name that ratios and budgets use.
type Metric struct {
	Name, Scenario, Unit string
	LowerIsBetter        bool
	Title                string
}

// Units of samples. Costs are of the near end's process, unless Both, Far or Hub stands there.
const (
	Throughput = "Mbit/s"
	CPU        = "s/GB"
	CPUBoth    = "s/GB-both" // with a hub's, if there is one
	CPUHub     = "s/GB-hub"
	Fairness   = "jain"
	SlowFast   = "slowest/fastest"
	Peak       = "MiB"
	PeakFar    = "MiB-far"
	PeakHub    = "MiB-hub"
	P50        = "p50-ms"
	P99        = "p99-ms"
	PerSecond  = "per-s"
	Errors     = "errors"
	Decay      = "last/first"
	Lost       = "lost"
	Millis     = "ms"
	Megabytes  = "MB"
)

// Metrics lists all that a ratio can be asked of, in the order of the report.
var Metrics = metrics()

func metrics() (all []Metric) {
	for _, n := range []string{"1", "8", "32"} {
		for _, way := range []string{"up", "down", "both"} {
			s, title := way+n, way+", "+n+" streams"
			if n == "1" {
				title = way + ", one stream"
			}
			all = append(all, Metric{s, s, Throughput, false, title},
				Metric{"cpu-" + s, s, CPU, true, title + ": CPU seconds per GB, near end"},
				Metric{"cpu-both-" + s, s, CPUBoth, true, title + ": CPU seconds per GB, both ends"},
				Metric{"cpu-hub-" + s, s, CPUHub, true, title + ": CPU seconds per GB, hub"},
				Metric{"rss-" + s, s, Peak, true, title + ": peak memory, near end"},
				Metric{"rss-hub-" + s, s, PeakHub, true, title + ": peak memory, hub"})
			if n != "1" {
				all = append(all, Metric{"jain-" + s, s, Fairness, false, title + ": Jain fairness"},
					Metric{"slow-" + s, s, SlowFast, false, title + ": slowest stream / fastest"})
			}
		}
	}
	for _, s := range []string{"active10", "active10-of1000"} {
		title := map[string]string{"active10": "ten peers of a hub, a stream up from each", "active10-of1000": "the same, and 990 idle peers"}[s]
		all = append(all, Metric{s, s, Throughput, false, title}, Metric{"jain-" + s, s, Fairness, false, title + ": Jain fairness"},
			Metric{"cpu-hub-" + s, s, CPUHub, true, title + ": CPU seconds per GB, hub"}, Metric{"rss-hub-" + s, s, PeakHub, true, title + ": peak memory, hub"})
	}
	return append(all,
		Metric{"cpu", "up1", CPU, true, "CPU seconds per GB, near end, one stream up"},
		Metric{"cpu-both", "up1", CPUBoth, true, "CPU seconds per GB, both ends, one stream up"},
		Metric{"rtt", "rtt-idle", P50, true, "request, idle, p50"},
		Metric{"rtt99", "rtt-idle", P99, true, "request, idle, p99"},
		Metric{"rtt-load", "rtt-load", P50, true, "request beside four downloads, p50"},
		Metric{"rtt99-load", "rtt-load", P99, true, "request beside four downloads, p99"},
		Metric{"down-load", "rtt-load", Throughput, false, "the four downloads beside requests"},
		Metric{"conns", "conns", PerSecond, false, "connections per second"},
		Metric{"conns99", "conns", P99, true, "connection, p99"},
		Metric{"conn-errors", "conns", Errors, true, "connections that failed"},
		Metric{"churn", "churn", PerSecond, false, "connect/close cycles per second"},
		Metric{"churn-decay", "churn", Decay, false, "connect/close: rate at the end / at the start"},
		Metric{"churn-errors", "churn", Errors, true, "connect/close cycles that failed"},
		Metric{"rss-churn", "churn", Peak, true, "peak memory, connect/close cycles"},
		Metric{"udp64", "udp64", PerSecond, false, "64-byte datagrams delivered per second"},
		Metric{"udp1400", "udp1400", PerSecond, false, "1,400-byte datagrams delivered per second"},
		Metric{"rss-idle", "idle", Peak, true, "memory, idle"},
		Metric{"rss-conns", "hold1000", Peak, true, "memory, 1,000 idle connections"},
		Metric{"rss-stall", "stall1000", Peak, true, "memory, 1,000 downloads of which nothing is read"},
		Metric{"rss-stall-far", "stall1000", PeakFar, true, "the same, of the end that sends"},
		Metric{"rss-peers", "peers1000", Peak, true, "memory, 1,000 peers"},
		Metric{"rss-any", "any", Peak, true, "memory, the most under any load"},
		Metric{"start", "start", Millis, true, "process start to first byte"},
		Metric{"handshakes", "peers1000", PerSecond, false, "handshakes answered per second"},
		Metric{"size", "size", Megabytes, true, "size of the program"},
		Metric{"loss", "impair-loss", Throughput, false, "up, 1% loss, 20 ms"},
		Metric{"reorder", "impair-reorder", Throughput, false, "up, 1% reordered, 20 ms"},
		Metric{"far", "impair-far", Throughput, false, "up, 100 ms"},
		Metric{"narrow", "impair-narrow", Throughput, false, "up, 100 Mbit/s bottleneck with a short queue"},
	)
}

// MetricNamed finds a metric.
func MetricNamed(name string) (Metric, bool) {
	i := slices.IndexFunc(Metrics, func(m Metric) bool { return m.Name == name })
	if i < 0 {
		return Metric{}, false
	}
	return Metrics[i], true
}

// Rounds are a contender's figures by round.
func (r *Run) Rounds(contender string, m Metric) map[int]float64 {
	out := map[int]float64{}
	for _, s := range r.Samples {
		if s.Contender == contender && s.Scenario == m.Scenario && s.Unit == m.Unit {
			out[s.Round] = s.Value
		}
	}
	return out
}

// Values are a contender's figures in the order of the rounds.
func (r *Run) Values(contender string, m Metric) (out []float64) {
	rounds := r.Rounds(contender, m)
	for _, n := range sortedKeys(rounds) {
		out = append(out, rounds[n])
	}
	return out
}

// Contenders are all that have samples, in the order they first appear.
func (r *Run) Contenders() (out []string) {
	for _, s := range r.Samples {
		if !slices.Contains(out, s.Contender) {
			out = append(out, s.Contender)
		}
	}
	return out
}

// Ratio is the median over the rounds of one contender's figure as a part of another's in the same round. False: no round has
// both. What nobody did at all (0 against 0) is a tie; something against nothing is no ratio.
func (r *Run) Ratio(contender, against string, m Metric) (float64, bool) {
	ours, theirs := r.Rounds(contender, m), r.Rounds(against, m)
	var ratios []float64
	for n, v := range ours {
		switch base, ok := theirs[n]; {
		case ok && base != 0:
			ratios = append(ratios, v/base)
		case ok && v == 0:
			ratios = append(ratios, 1)
		}
	}
	return Median(ratios), len(ratios) > 0
}

// Headline is a ratio under its name.
type Headline struct {
	Name  string // contender/against:metric
	Value float64
}

// Headlines are the ratios that a quick run prints: whatever of them has been measured.
func (r *Run) Headlines() (out []Headline) {
	have := r.Contenders()
	addAs := func(as, c, against string, names ...string) {
		for _, name := range names {
			m, ok := MetricNamed(name)
			if !ok || c == against {
				continue
			}
			if v, ok := r.Ratio(c, against, m); ok {
				out = append(out, Headline{as + "/" + against + ":" + name, v})
			}
		}
	}
	add := func(c, against string, names ...string) { addAs(c, c, against, names...) }
	traffic := []string{"up1", "down1", "up8", "down8"}
	for _, c := range have {
		add(c, Yardstick, append(traffic, "up32", "down32", "rtt", "rtt-load", "down-load", "conns")...)
	}
	add("kernel-sym", PlainKernel, traffic...)
	addAs("kernel", "kernel-sym", PlainKernel, traffic...) // what the product calls it: plain-kernel is at both ends, so no other can be meant
	for _, c := range have {
		if strings.HasPrefix(c, "gateway") {
			add(c, Direct, append(traffic, "rtt", "rtt-load", "udp64", "udp1400")...)
		}
	}
	hub := []string{"cpu-hub-up1", "cpu-hub-down1", "cpu-hub-up8", "active10", "active10-of1000", "cpu-hub-active10-of1000"}
	add("gateway", "gateway-wggo", append(append(hub, "udp64", "udp1400"), traffic...)...)
	for _, c := range []string{"gateway", "gateway-in-kernel"} {
		add(c, "gateway-kernel", append(hub, traffic...)...)
	}
	for _, ends := range []string{"", "-sym"} {
		for _, peer := range peers {
			add("netstack"+ends, peer+ends, append([]string{"cpu", "cpu-both"}, traffic...)...)
		}
	}
	return out
}

func sortedKeys[V any](m map[int]V) (out []int) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
