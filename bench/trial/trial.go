// Package trial runs the rounds: every contender once in each, all scenarios on each, what comes of it into a bench.Run.
//
// A scenario that fails is written down as skipped, with what failed, and the rest goes on: one contender's stall must not cost
// the others their figures, and must not be forgotten either.
package trial

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/load"
)

// Options are a run.
type Options struct {
	Setup      *contender.Setup
	Contenders []contender.Contender
	Scenarios  []Scenario
	Rounds     int
	Time, Warm time.Duration
	Cycles     int       // connect/close cycles of the churn
	Progress   io.Writer // a line for everything that begins
}

// Scenario is one thing that is measured on a running contender.
type Scenario struct {
	Name   string
	Alone  bool                 // it brings up what it needs itself
	Once   bool                 // in the first round alone: it takes long, and no verdict hangs on its last percent
	More   time.Duration        // for how much longer than Options.Time it measures
	Not    []string             // contenders that it is not asked of
	Impair []string             // flags of the bad network that it needs
	Peers  contender.Population // further peers of the hub that it needs
	run    func(context.Context, *stage) error
}

// stage is where a scenario runs. Every scenario gets ends that are new: what the last one has left in queues, heaps and
// ports would be its figures too.
type stage struct {
	o         *Options
	contender contender.Contender
	pair      *contender.Pair
	round     int
	scenario  string
	out       *bench.Run
	most      map[string]float64 // memory under any load of any round
}

func (s *stage) add(unit string, v float64) {
	s.out.Add(bench.Sample{Contender: s.contender.Name, Scenario: s.scenario, Round: s.round, Unit: unit, Value: v})
}

// Run makes the rounds. What it has found by then is in out even when it fails.
func Run(ctx context.Context, o *Options, out *bench.Run) error {
	most := map[string]map[string]float64{}
	defer func() { addMost(out, most) }()
	var able []contender.Contender
	for _, c := range o.Contenders {
		if why := c.Missing(o.Setup); why != "" {
			out.Skips = append(out.Skips, bench.Skip{What: c.Name, Why: why})
			fmt.Fprintf(o.Progress, "SKIPPED %s: %s\n", c.Name, why)
			continue
		}
		able = append(able, c)
		most[c.Name] = map[string]float64{}
	}
	for round := 1; round <= o.Rounds; round++ {
		for _, c := range able {
			if err := ctx.Err(); err != nil {
				return err
			}
			fmt.Fprintf(o.Progress, "%s round %d of %d: %s\n", time.Now().Format(time.TimeOnly), round, o.Rounds, c.Name)
			s := &stage{o: o, contender: c, round: round, out: out, most: most[c.Name]}
			s.runAll(ctx)
		}
	}
	return ctx.Err()
}

func (s *stage) runAll(ctx context.Context) {
	for _, sc := range s.o.Scenarios {
		if ctx.Err() != nil {
			return
		}
		if sc.Once && s.round > 1 || slices.Contains(sc.Not, s.contender.Name) {
			continue
		}
		s.scenario = sc.Name
		if err := s.runOne(ctx, sc); err != nil {
			s.failed(err)
		}
	}
}

// addMost notes each contender's most memory, once for the whole run: not every load is in every round.
func addMost(out *bench.Run, most map[string]map[string]float64) {
	for _, name := range slices.Sorted(maps.Keys(most)) {
		for unit, v := range most[name] {
			out.Add(bench.Sample{Contender: name, Scenario: "any", Round: 1, Unit: unit, Value: v})
		}
	}
}

func (s *stage) runOne(ctx context.Context, sc Scenario) (err error) {
	if sc.Alone {
		return sc.run(ctx, s)
	}
	setup := *s.o.Setup
	setup.Impair, setup.Peers = sc.Impair, sc.Peers
	if why := s.contender.Missing(&setup); why != "" {
		return fmt.Errorf("%w: %s", contender.ErrNotApplicable, why)
	}
	if s.pair, err = contender.Start(ctx, &setup, s.contender); err != nil {
		return err
	}
	defer func() {
		if more := s.pair.Close(); more != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", more))
		}
		s.pair = nil
	}()
	return sc.run(ctx, s)
}

func (s *stage) failed(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if errors.Is(err, contender.ErrNotApplicable) {
		if s.round == 1 { // it will not be in any other either
			s.out.Skips = append(s.out.Skips, bench.Skip{What: s.contender.Name + ":" + s.scenario, Why: err.Error()})
		}
		return
	}
	what := fmt.Sprintf("%s:%s, round %d", s.contender.Name, s.scenario, s.round)
	s.out.Skips = append(s.out.Skips, bench.Skip{What: what, Why: err.Error()})
	fmt.Fprintf(s.o.Progress, "FAILED %s: %v\n", what, err)
}

// errNoUDP is of contenders that relay TCP alone.
var errNoUDP = fmt.Errorf("%w: it carries no UDP", contender.ErrNotApplicable)

// load runs the load client in the near host and reads what it prints.
func (s *stage) load(ctx context.Context, what string, result any, args ...string) error {
	return s.loadWith(ctx, s.o.Time, what, result, args...)
}

func (s *stage) loadWith(ctx context.Context, t time.Duration, what string, result any, args ...string) error {
	var out bytes.Buffer
	p, err := s.client(&out, nil, t, what, args...)
	if err != nil {
		return err
	}
	return s.result(ctx, p, t, &out, result)
}

// result waits for a load that runs for t, and reads what it printed.
func (s *stage) result(ctx context.Context, p *lab.Process, t time.Duration, out *bytes.Buffer, result any) error {
	if err := p.Wait(ctx, s.o.Warm+t+60*time.Second); err != nil {
		return errors.Join(err, s.pair.Alive())
	}
	if err := json.Unmarshal(out.Bytes(), result); err != nil {
		return fmt.Errorf("read the load's result: %w", err)
	}
	return nil
}

func (s *stage) client(out io.Writer, in io.Reader, t time.Duration, what string, args ...string) (*lab.Process, error) {
	if what == "datagrams" {
		return s.clientAt(s.pair.UDP, out, in, t, what, args...)
	}
	return s.clientAt(s.pair.TCP, out, in, t, what, args...)
}

// clientAt is a client that takes one of the ways in.
func (s *stage) clientAt(addr string, out io.Writer, in io.Reader, t time.Duration, what string, args ...string) (*lab.Process, error) {
	var pids []string
	for _, pid := range s.pair.PIDs() {
		pids = append(pids, fmt.Sprint(pid))
	}
	args = append([]string{what, "-addr", addr, "-control", s.pair.Control, "-warm", s.o.Warm.String(), "-time", t.String(),
		"-watch", strings.Join(pids, ",")}, args...)
	return s.pair.NearHost.Start(lab.Program{Path: s.o.Setup.Programs.Load, Args: args, Input: in}, out)
}

const mebi = 1 << 20

// The order of the costs is that of Pair.PIDs.
var costUnits = []string{bench.Peak, bench.PeakFar, bench.PeakHub}

const hubCost = 2

// memoryOf notes the memory of a process.
func (s *stage) memoryOf(which int, bytes int64) {
	v := float64(bytes) / mebi
	s.add(costUnits[which], v)
	// Both ends of a symmetric contender are the same program: the greater counts.
	if which == 0 || strings.HasSuffix(s.contender.Name, "-sym") {
		s.most[bench.Peak] = max(s.most[bench.Peak], v)
	}
}

// costs notes what the tunnel's processes used; bytes is what they carried for it, 0: not asked.
func (s *stage) costs(costs []load.Cost, carried float64) {
	var cpu float64
	for i, c := range costs {
		s.memoryOf(i, c.Peak)
		cpu += c.CPU.Seconds()
		if i == 0 && carried > 0 {
			s.add(bench.CPU, cpu/(carried/1e9))
		}
		if i == hubCost && carried > 0 {
			s.add(bench.CPUHub, c.CPU.Seconds()/(carried/1e9))
		}
	}
	if len(costs) > 1 && carried > 0 {
		s.add(bench.CPUBoth, cpu/(carried/1e9))
	}
}
