package trial

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/lab"
)

// programs builds what the plain contenders need.
func programs(t *testing.T, dir string) (p contender.Programs) {
	t.Helper()
	if why := lab.Missing(); why != "" {
		t.Skip(why)
	}
	for path, pkg := range map[*string]string{&p.Load: "../cmd/load", &p.Stock: "../cmd/stock", &p.Impair: "../cmd/impair"} {
		*path = filepath.Join(dir, filepath.Base(pkg))
		if out, err := exec.Command("go", "build", "-o", *path, pkg).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", pkg, err, out)
		}
	}
	return p
}

func pickScenarios(t *testing.T, names ...string) (out []Scenario) {
	t.Helper()
	for _, s := range All() {
		for _, n := range names {
			if s.Name == n {
				out = append(out, s)
			}
		}
	}
	if len(out) != len(names) {
		t.Fatalf("found %d of %v", len(out), names)
	}
	return out
}

// A round over a cable and over a tunnel: figures of both come, what cannot be is told as such, and nothing is left behind.
func TestRounds(t *testing.T) {
	dir, err := os.MkdirTemp("", "twb-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil { // contenders run as another user
		t.Fatal(err)
	}
	contenders, err := contender.Find([]string{"veth", "stock-sym", "wireproxy"})
	if err != nil {
		t.Fatal(err)
	}
	var progress bytes.Buffer
	var r bench.Run
	o := Options{Setup: &contender.Setup{Programs: programs(t, dir), Dir: dir}, Contenders: contenders, Rounds: 2, Time: 200 * time.Millisecond,
		Warm: 100 * time.Millisecond, Cycles: 50, Progress: &progress,
		Scenarios: pickScenarios(t, "idle", "up1", "rtt-idle", "rtt-load", "hold1000", "stall1000", "conns", "udp64", "impair-far")}
	if err := Run(t.Context(), &o, &r); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(progress.String(), "FAILED") {
		t.Error(progress.String())
	}
	once := []string{"far", "rss-any", "rss-stall", "rss-stall-far"}
	for contender, metrics := range map[string][]string{
		"veth":      {"up1", "rtt", "rtt-load", "down-load", "conns", "conn-errors", "udp64"},
		"stock-sym": {"up1", "cpu", "cpu-both", "rss-up1", "rtt", "rtt-load", "down-load", "conns", "rss-idle", "rss-conns", "rss-stall", "rss-stall-far", "rss-any", "far"},
	} {
		for _, name := range metrics {
			m, _ := bench.MetricNamed(name)
			want := o.Rounds
			if slices.Contains(once, name) {
				want = 1
			}
			if n := len(r.Values(contender, m)); n != want {
				t.Errorf("%s has %s of %d rounds, want %d", contender, name, n, want)
			}
		}
	}
	up1, _ := bench.MetricNamed("up1")
	if ratio, ok := r.Ratio("stock-sym", "veth", up1); !ok || ratio >= 1 {
		t.Errorf("a tunnel is %v times as fast as the cable that it runs over", ratio)
	}
	told := map[string]bool{}
	for _, s := range r.Skips {
		told[s.What] = true
	}
	for _, want := range []string{"wireproxy", "stock-sym:udp64", "veth:impair-far"} {
		if !told[want] {
			t.Errorf("nobody says that %s was left out: %v", want, r.Skips)
		}
	}
	if left, _ := filepath.Glob("/run/netns/twb-" + pid() + "-*"); len(left) != 0 {
		t.Error("left behind:", left)
	}
}

// A scenario is asked of nobody whom it is not for, and what takes long only once.
func TestWhoIsAskedWhat(t *testing.T) {
	measure := func(_ context.Context, s *stage) error { s.add(bench.Throughput, 1); return nil }
	o := Options{Progress: &bytes.Buffer{}, Scenarios: []Scenario{
		{Name: "up1", Alone: true, run: measure},
		{Name: "up8", Alone: true, Not: []string{"stock"}, run: measure},
		{Name: "up32", Alone: true, Once: true, Not: []string{"stock"}, run: measure},
	}}
	var r bench.Run
	for round := 1; round <= 2; round++ {
		for _, name := range []string{"stock", "netstack"} {
			s := stage{o: &o, contender: contender.Contender{Name: name}, round: round, out: &r}
			s.runAll(t.Context())
		}
	}
	got := map[string]int{}
	for _, s := range r.Samples {
		got[s.Contender+" "+s.Scenario]++
	}
	if want := map[string]int{"stock up1": 2, "netstack up1": 2, "netstack up8": 2, "netstack up32": 1}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A contender whose program dies yields failures, not figures, and the run goes on.
func TestADeadContender(t *testing.T) {
	dir := t.TempDir()
	p := programs(t, dir)
	p.Stock = "/bin/false"
	contenders, err := contender.Find([]string{"stock-sym", "veth"})
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Run
	o := Options{Setup: &contender.Setup{Programs: p, Dir: dir}, Contenders: contenders, Rounds: 1, Time: 50 * time.Millisecond,
		Progress: &bytes.Buffer{}, Scenarios: pickScenarios(t, "up1")}
	if err := Run(t.Context(), &o, &r); err != nil {
		t.Fatal(err)
	}
	up1, _ := bench.MetricNamed("up1")
	if len(r.Values("stock-sym", up1)) != 0 || len(r.Values("veth", up1)) != 1 || len(r.Skips) != 1 || r.Skips[0].What != "stock-sym:up1, round 1" {
		t.Errorf("%+v", r)
	}
}

func pid() string { return filepath.Base(must(os.Readlink("/proc/self"))) }

func must(s string, _ error) string { return s }
