package bench

import (
	"fmt"
	"slices"
)

// Yardstick is upstream wireguard-go on TUN at both ends.
const Yardstick = "wggo-tun"

// PlainKernel is the kernel's WireGuard at both ends, set up by hand: the yardstick of the datapath Kernel, in the same kernel.
const PlainKernel = "plain-kernel"

// Direct is an outside peer and a member with no gateway between: what one costs is seen against it.
const Direct = "direct"

// Budget is what a product issue promises. Without Against it is of the figure itself; with it, of the ratio within rounds.
type Budget struct {
	Name      string
	Contender string
	Against   string
	Metric    string
	AtMost    bool // else at least
	Target    float64
	LongOnly  bool // only the long run says it: a quick one is too short for a verdict
}

// noStall is what the slowest of many streams has of the fastest where none of them stalls. A retransmission timeout takes 200 ms, the next
// 400 and 800: a stream that met a second or third one stood still for half of the shortest window that verdicts are made of, 2 s, and
// has less than half of what the others have. One timeout alone is not told from chance: streams over a plain cable come to 0.74.
const noStall = 0.5

// Budgets are those of "the fastest unprivileged WireGuard there is". A row whose contender is not there stays in the report
// as not measured, so that nobody takes silence for success.
var Budgets = []Budget{
	{Name: "Netstack on both ends, one stream up", Contender: "netstack-sym", Against: Yardstick, Metric: "up1", Target: 1.6},
	{Name: "Netstack on both ends, one stream down", Contender: "netstack-sym", Against: Yardstick, Metric: "down1", Target: 1.6},
	{Name: "Netstack on both ends, 8 streams up", Contender: "netstack-sym", Against: Yardstick, Metric: "up8", Target: 1.6},
	{Name: "Netstack on both ends, 8 streams down", Contender: "netstack-sym", Against: Yardstick, Metric: "down8", Target: 1.6},
	{Name: "Netstack on both ends, 32 streams up", Contender: "netstack-sym", Against: Yardstick, Metric: "up32", Target: 1.3},
	{Name: "Netstack on both ends, 32 streams down", Contender: "netstack-sym", Against: Yardstick, Metric: "down32", Target: 1.3},
	{Name: "Netstack to upstream TUN, one stream up", Contender: "netstack", Against: Yardstick, Metric: "up1", Target: 1.1},
	{Name: "Netstack to upstream TUN, one stream down", Contender: "netstack", Against: Yardstick, Metric: "down1", Target: 1.1},
	{Name: "Netstack to upstream TUN, 8 streams up", Contender: "netstack", Against: Yardstick, Metric: "up8", Target: 1.1},
	{Name: "Netstack to upstream TUN, 8 streams down", Contender: "netstack", Against: Yardstick, Metric: "down8", Target: 1.1},
	{Name: "CPU per GB, near end, against stock netstack", Contender: "netstack", Against: "stock", Metric: "cpu", AtMost: true, Target: 0.25},
	{Name: "CPU per GB, both ends, against stock netstack", Contender: "netstack-sym", Against: "stock-sym", Metric: "cpu-both", AtMost: true, Target: 0.25},
	{Name: "TUN on both ends, one stream up", Contender: "tun-sym", Against: Yardstick, Metric: "up1", Target: 1.4},
	{Name: "TUN on both ends, one stream down", Contender: "tun-sym", Against: Yardstick, Metric: "down1", Target: 1.4},
	{Name: "TUN on both ends, 8 streams up", Contender: "tun-sym", Against: Yardstick, Metric: "up8", Target: 1.3},
	{Name: "TUN on both ends, 8 streams down", Contender: "tun-sym", Against: Yardstick, Metric: "down8", Target: 1.3},
	{Name: "Kernel against plain kernel WireGuard, one stream up", Contender: "kernel-sym", Against: PlainKernel, Metric: "up1", Target: 0.98},
	{Name: "Kernel against plain kernel WireGuard, one stream down", Contender: "kernel-sym", Against: PlainKernel, Metric: "down1", Target: 0.98},
	{Name: "Kernel against plain kernel WireGuard, 8 streams up", Contender: "kernel-sym", Against: PlainKernel, Metric: "up8", Target: 0.98},
	{Name: "Kernel against plain kernel WireGuard, 8 streams down", Contender: "kernel-sym", Against: PlainKernel, Metric: "down8", Target: 0.98},
	{Name: "Request beside four downloads, p50 ms", Contender: "netstack-sym", Metric: "rtt-load", AtMost: true, Target: 1},
	{Name: "Request beside four downloads, p99 ms", Contender: "netstack-sym", Metric: "rtt99-load", AtMost: true, Target: 10},
	{Name: "The four downloads beside requests", Contender: "netstack-sym", Against: Yardstick, Metric: "down-load", Target: 1.6},
	{Name: "Memory idle, MiB", Contender: "netstack-sym", Metric: "rss-idle", AtMost: true, Target: 16},
	{Name: "Memory with 1,000 peers, MiB", Contender: "netstack-sym", Metric: "rss-peers", AtMost: true, Target: 40},
	{Name: "Memory with 1,000 idle connections, MiB", Contender: "netstack-sym", Metric: "rss-conns", AtMost: true, Target: 64},
	{Name: "Memory under any load, MiB", Contender: "netstack-sym", Metric: "rss-any", AtMost: true, Target: 64},
	{Name: "Memory under any load to upstream TUN, MiB", Contender: "netstack", Metric: "rss-any", AtMost: true, Target: 64},
	{Name: "Connections per second", Contender: "netstack-sym", Against: Yardstick, Metric: "conns", Target: 1},
	{Name: "Connection p99", Contender: "netstack-sym", Against: Yardstick, Metric: "conns99", AtMost: true, Target: 1},
	{Name: "Connections that fail", Contender: "netstack-sym", Metric: "conn-errors", AtMost: true, Target: 0},
	{Name: "A million connect/close cycles: rate at the end / start", Contender: "netstack-sym", Metric: "churn-decay", Target: 0.9, LongOnly: true},
	{Name: "A million connect/close cycles: failures", Contender: "netstack-sym", Metric: "churn-errors", AtMost: true, Target: 0, LongOnly: true},
	{Name: "A million connect/close cycles: memory, MiB", Contender: "netstack-sym", Metric: "rss-churn", AtMost: true, Target: 64, LongOnly: true},
	{Name: "Fairness of 32 streams up, Jain", Contender: "netstack-sym", Metric: "jain-up32", Target: 0.9},
	{Name: "Fairness of 32 streams down, Jain", Contender: "netstack-sym", Metric: "jain-down32", Target: 0.9},
	{Name: "Slowest of 32 streams / fastest, up", Contender: "netstack-sym", Metric: "slow-up32", Target: noStall},
	{Name: "Slowest of 32 streams / fastest, down", Contender: "netstack-sym", Metric: "slow-down32", Target: noStall},
	{Name: "Sidecar program, MB", Contender: "sidecar", Metric: "size", AtMost: true, Target: 15},
}

// peers are the userspace contenders of others: by this name with upstream at the far end, with -sym at both.
var peers = []string{"stock", "wireproxy", "sing-box", "tailscaled"}

// AheadOf are the budgets "ahead of every userspace peer": a row for each peer and each figure that a budget is of, where this run
// has both.
func AheadOf(r *Run) (out []Budget) {
	for _, ends := range []string{"-sym", ""} {
		for _, peer := range peers {
			for _, m := range judged() {
				if _, ok := r.Ratio("netstack"+ends, peer+ends, m); ok {
					out = append(out, Budget{Name: m.Title, Contender: "netstack" + ends, Against: peer + ends, Metric: m.Name, AtMost: m.LowerIsBetter, Target: 1})
				}
			}
		}
	}
	return out
}

// judged are the metrics of tunnels that budgets are of, each once.
func judged() (out []Metric) {
	for _, m := range Metrics {
		if slices.ContainsFunc(Budgets, func(b Budget) bool { return b.Metric == m.Name && !b.LongOnly && b.Contender != "sidecar" }) {
			out = append(out, m)
		}
	}
	return out
}

// Verdict is what a run says of a budget.
type Verdict string

// Verdicts.
const (
	Met         Verdict = "met"
	Missed      Verdict = "missed"
	NotMeasured Verdict = "not measured"
)

// Judge gives the figure reached and the verdict. A run that is not the long one says nothing of what only that can show.
func (b Budget) Judge(r *Run) (float64, Verdict) {
	m, ok := MetricNamed(b.Metric)
	if !ok {
		panic("budget of unknown metric " + b.Metric) // a mistake in the table above, which a test reads whole
	}
	var reached float64
	if b.Against != "" {
		reached, ok = r.Ratio(b.Contender, b.Against, m)
	} else {
		values := r.Values(b.Contender, m)
		reached, ok = Median(values), len(values) > 0
	}
	switch {
	case !ok || b.LongOnly && !r.Long:
		return reached, NotMeasured
	case b.AtMost && reached <= b.Target, !b.AtMost && reached >= b.Target:
		return reached, Met
	}
	return reached, Missed
}

// Wants is the target in words.
func (b Budget) Wants() string {
	word := "≥"
	if b.AtMost {
		word = "≤"
	}
	unit := ""
	if b.Against != "" {
		unit = " × " + b.Against
	}
	return fmt.Sprintf("%s %g%s", word, b.Target, unit)
}
