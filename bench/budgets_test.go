package bench

import (
	"math"
	"testing"
)

func TestBudgetsNameMetricsThatExist(t *testing.T) {
	names := map[string]bool{}
	for _, m := range Metrics {
		if names[m.Name] {
			t.Errorf("two metrics are called %s", m.Name)
		}
		names[m.Name] = true
	}
	for _, b := range Budgets {
		m, ok := MetricNamed(b.Metric)
		if !ok {
			t.Errorf("%s: no metric %s", b.Name, b.Metric)
		}
		if m.LowerIsBetter != b.AtMost {
			t.Errorf("%s: a budget against the grain of %s", b.Name, b.Metric)
		}
		if _, v := b.Judge(&Run{Long: true}); v != NotMeasured {
			t.Errorf("%s: %s without a sample", b.Name, v)
		}
	}
	for _, c := range Charts {
		for _, m := range c.Metrics {
			if !names[m] {
				t.Errorf("%s draws %s, which is no metric", c.File, m)
			}
		}
	}
}

func TestJudge(t *testing.T) {
	least := Budget{Contender: "c", Against: "base", Metric: "up1", Target: 1.6}
	most := Budget{Contender: "c", Metric: "rss-idle", AtMost: true, Target: 16}
	none := Budget{Contender: "c", Metric: "conn-errors", AtMost: true}
	long := Budget{Contender: "c", Metric: "rss-idle", AtMost: true, Target: 16, LongOnly: true}
	for _, c := range []struct {
		name string
		b    Budget
		s    []Sample
		long bool
		want Verdict
	}{
		{"ratio reached exactly", least, []Sample{{"c", "up1", 1, Throughput, 1600}, {"base", "up1", 1, Throughput, 1000}}, false, Met},
		{"ratio not reached", least, []Sample{{"c", "up1", 1, Throughput, 1590}, {"base", "up1", 1, Throughput, 1000}}, false, Missed},
		{"no base", least, []Sample{{"c", "up1", 1, Throughput, 1590}}, false, NotMeasured},
		{"base of another round", least, []Sample{{"c", "up1", 1, Throughput, 9}, {"base", "up1", 2, Throughput, 1}}, false, NotMeasured},
		{"base stood still", least, []Sample{{"c", "up1", 1, Throughput, 9}, {"base", "up1", 1, Throughput, 0}}, false, NotMeasured},
		{"median of rounds", most, []Sample{{"c", "idle", 1, Peak, 10}, {"c", "idle", 2, Peak, 99}, {"c", "idle", 3, Peak, 12}}, false, Met},
		{"too much", most, []Sample{{"c", "idle", 1, Peak, 16.5}}, false, Missed},
		{"no errors", none, []Sample{{"c", "conns", 1, Errors, 0}}, false, Met},
		{"one error", none, []Sample{{"c", "conns", 1, Errors, 1}}, false, Missed},
		{"short run", long, []Sample{{"c", "idle", 1, Peak, 1}}, false, NotMeasured},
		{"long run", long, []Sample{{"c", "idle", 1, Peak, 1}}, true, Met},
	} {
		if _, got := c.b.Judge(&Run{Samples: c.s, Long: c.long}); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestRatioIsWithinRounds(t *testing.T) {
	m, _ := MetricNamed("up1")
	r := &Run{}
	for i, speed := range []float64{1, 10, 3} { // a machine that changes its speed between rounds
		r.Add(Sample{"a", "up1", i + 1, Throughput, 2 * speed})
		r.Add(Sample{"b", "up1", i + 1, Throughput, speed})
	}
	if v, ok := r.Ratio("a", "b", m); !ok || v != 2 {
		t.Error(v, ok)
	}
	r.Add(Sample{"a", "up1", 4, Throughput, math.NaN()})
	if n := len(r.Values("a", m)); n != 3 {
		t.Errorf("%d values: one that is no number was kept", n)
	}
}

func TestHeadlinesNameWhatIsThere(t *testing.T) {
	r, got := example(), map[string]float64{}
	r.Add(Sample{"plain-kernel", "down8", 1, Throughput, 200})
	r.Add(Sample{"kernel-sym", "down8", 1, Throughput, 198})
	for _, h := range r.Headlines() {
		got[h.Name] = h.Value
	}
	for name, want := range map[string]float64{"netstack-sym/wggo-tun:up1": 1.71, "netstack/stock:cpu": 1. / 3, "kernel-sym/plain-kernel:down8": 0.99,
		"kernel/plain-kernel:down8": 0.99} {
		if math.Abs(got[name]-want) > 1e-9 {
			t.Errorf("%s: %v, want %v (of %v)", name, got[name], want, got)
		}
	}
	for name := range got {
		if name == "wggo-tun/wggo-tun:up1" {
			t.Error("a ratio of something to itself")
		}
	}
}
