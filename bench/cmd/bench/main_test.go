package main

import (
	"slices"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/trial"
)

// took is what so many contenders take for their rounds, by what a scenario says of itself.
func took(able int, t trial.Options) (sum time.Duration) {
	for _, s := range t.Scenarios {
		sum += time.Duration(able*t.Rounds) * (t.Time + t.Warm + around + s.More)
	}
	return sum
}

// A quick run keeps its promise with whatever is there, and wastes nothing: all its contenders are those that there can be.
func TestQuickRunIsAffordable(t *testing.T) {
	o, err := parse([]string{"-quick"})
	if err != nil {
		t.Fatal(err)
	}
	last := time.Hour
	for able := 1; able <= len(o.trial.Contenders); able++ {
		o.trial.Time = affordable(able, o.trial)
		if sum := took(able, o.trial); sum > quickTime || sum < quickTime-time.Second && o.trial.Time < 2*time.Second {
			t.Errorf("with %d contenders it takes %v of %v", able, sum, quickTime)
		}
		if o.trial.Time > last || o.trial.Time < 400*time.Millisecond {
			t.Errorf("with %d contenders each measurement takes %v, with one less %v", able, o.trial.Time, last)
		}
		last = o.trial.Time
	}
}

// What the downloads beside requests take longer is counted, or the promise is broken.
func TestDownloadsBesideRequestsTakeLonger(t *testing.T) {
	i := slices.IndexFunc(trial.Quick(), func(s trial.Scenario) bool { return s.Name == "rtt-load" })
	if i < 0 || trial.Quick()[i].More <= 0 {
		t.Error("rtt-load says that it takes no longer than others")
	}
}

// Where the kernel has WireGuard, a quick run compares with it; where it has not, these are skipped as in a whole run.
func TestQuickRunHasTheKernel(t *testing.T) {
	o, err := parse([]string{"-quick"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kernel-sym", "plain-kernel"} {
		if !slices.ContainsFunc(o.trial.Contenders, func(c contender.Contender) bool { return c.Name == name }) {
			t.Errorf("%s is not among a quick run's", name)
		}
	}
}

// Every budget that is measured with the whole machine has its figures within limits too, unless it takes peers, minutes or another kernel.
func TestLimitsMeasureTheBudgets(t *testing.T) {
	elsewhere := []string{"plain-kernel", "sidecar"}
	asked := func(contender, scenario string) bool {
		return slices.Contains(limitedContenders, contender) && slices.ContainsFunc(trial.Limited(limitedPartly...), func(s trial.Scenario) bool {
			return (s.Name == scenario || scenario == "any") && !slices.Contains(s.Not, contender)
		})
	}
	for _, b := range bench.Budgets {
		m, _ := bench.MetricNamed(b.Metric)
		if b.LongOnly || m.Scenario == "peers1000" || slices.Contains(elsewhere, b.Against) || slices.Contains(elsewhere, b.Contender) {
			continue
		}
		if !asked(b.Contender, m.Scenario) || b.Against != "" && !asked(b.Against, m.Scenario) {
			t.Errorf("within limits nothing is measured for %q", b.Name)
		}
	}
	for _, name := range limitedPartly {
		if asked(name, "up8") {
			t.Errorf("%s is asked for more than what a gigabyte costs", name)
		}
	}
}
