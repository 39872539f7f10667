// Command bench measures TenantWire against what else there is and writes the report; see the package at bench/.
//
//	go run ./cmd/bench                 everything, into report/
//	go run ./cmd/bench -quick          headline ratios on standard output, one a line, in less than five minutes
//
// BENCH_PEERS names a folder with the binaries of further contenders.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/trial"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = o.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// options are the command line.
type options struct {
	trial      trial.Options
	setup      contender.Setup
	out        string
	quick      bool
	long       bool
	profiles   bool
	limits     bool
	guest      bool
	gateway    bool
	contenders string
	scenarios  string
	env        string
	programs   string
	words      []string
}

func parse(args []string) (*options, error) {
	o := &options{words: args}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "few scenarios, less than five minutes, ratios only; files are written only with -out")
	fs.BoolVar(&o.long, "long", false, "add a section with a million connect/close cycles: some 20 minutes; not with -quick")
	fs.StringVar(&o.out, "out", "", "folder for the report (default report, with -quick none)")
	fs.IntVar(&o.trial.Rounds, "rounds", 0, "rounds (default 3); what takes long is in the first alone")
	fs.DurationVar(&o.trial.Time, "time", 0, "of each measurement (default 2s, with -quick what five minutes allow)")
	fs.DurationVar(&o.trial.Warm, "warm", 500*time.Millisecond, "before each")
	fs.IntVar(&o.trial.Cycles, "cycles", 60000, "connect/close cycles")
	fs.StringVar(&o.contenders, "contenders", "", "some, by comma (default all, with -quick the headline's)")
	fs.StringVar(&o.scenarios, "scenarios", "", "some, by comma (default all, with -quick the headline's)")
	fs.BoolVar(&o.profiles, "profiles", true, "profile our sidecar after the rounds; not with -quick")
	fs.BoolVar(&o.limits, "limits", true, "measure some of it again with one CPU, half a CPU and small buffers; not with -quick or a limit given")
	fs.BoolVar(&o.gateway, "gateway", true, "measure an outside peer, a gateway and a member; not with -quick or contenders given")
	fs.BoolVar(&o.guest, "guest", true, "where this kernel has no WireGuard, compare the datapath Kernel in a guest that has; not with -quick")
	fs.BoolFunc("one-cpu", "give each end of a tunnel one CPU: the near end the first, the far end the second", func(string) error {
		o.setup.Place.CPU = 1
		return nil
	})
	fs.Float64Var(&o.setup.Place.Quota, "quota", 0, "CPUs that a cgroup gives every tunnel process, such as 0.5 (0: all)")
	fs.BoolVar(&o.setup.Place.SmallBuffers, "small-buffers", false, "socket buffers as for a pod on a host whose net.core.rmem_max and wmem_max are its defaults")
	fs.StringVar(&o.env, "sidecar-env", "", "NAME=VALUE,... for our sidecar, such as MEMORY_LIMIT=67108864")
	fs.StringVar(&o.programs, "programs", "", "folder with the programs already built, where there is no Go toolchain: in a guest")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return o, o.complete()
}

// complete fills in what the flags left open.
func (o *options) complete() (err error) {
	if o.trial.Rounds == 0 {
		o.trial.Rounds = 3
	}
	if o.trial.Time == 0 && !o.quick {
		o.trial.Time = 2 * time.Second
	}
	if o.out == "" && !o.quick {
		o.out = "report"
	}
	if o.env != "" {
		o.setup.Env = strings.Split(o.env, ",")
	}
	o.trial.Contenders = contender.All()
	switch {
	case o.contenders != "":
		o.trial.Contenders, err = contender.Find(strings.Split(o.contenders, ","))
	case o.quick:
		o.trial.Contenders, err = contender.Find([]string{"wggo-tun", "netstack-sym", "netstack", "tun-sym", "tun", "kernel-sym", "plain-kernel", "stock", "wireproxy", "sing-box"})
	}
	if err != nil {
		return err
	}
	o.trial.Scenarios = trial.All()
	if o.quick {
		o.trial.Scenarios = trial.Quick()
	}
	if o.scenarios != "" {
		o.trial.Scenarios, err = find(strings.Split(o.scenarios, ","))
	}
	return err
}

func find(names []string) (out []trial.Scenario, err error) {
	for _, n := range names {
		found := false
		for _, s := range append(trial.All(), trial.HubOnly()...) {
			if s.Name == n {
				out, found = append(out, s), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no scenario %q", n)
		}
	}
	return out, nil
}

func (o *options) run(ctx context.Context) error {
	if why := lab.Missing(); why != "" {
		return errors.New(why)
	}
	if err := lab.Sweep(); err != nil {
		return fmt.Errorf("remove what a killed run has left: %w", err)
	}
	dir, err := os.MkdirTemp("", "twb-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o711); err != nil { // contenders run as another user
		return err
	}
	o.setup.Dir, o.trial.Setup, o.trial.Progress = dir, &o.setup, os.Stderr
	if o.setup.Programs, err = o.obtain(ctx, dir); err != nil {
		return err
	}
	if o.trial.Time == 0 {
		o.trial.Time = o.affordable()
	}
	r := &bench.Report{Facts: facts(ctx, o.words, o.programs == "")}
	if o.setup.Place.SmallBuffers || o.withinLimits() {
		r.Facts = append(r.Facts, smallBuffers())
	}
	failed := o.measure(ctx, r)
	r.Facts = append(r.Facts, bench.Fact{Name: "Load average after", Value: loadAverage()})
	_ = bench.WriteRatios(os.Stdout, r.Runs[0].Headlines())
	return errors.Join(failed, o.write(r))
}

// measure fills the report, first with what has no limits. What it has found by then is there even when it fails.
func (o *options) measure(ctx context.Context, r *bench.Report) error {
	whole := &bench.Run{Limit: o.setup.Place.String()}
	r.Runs = append(r.Runs, whole)
	if err := addSize(whole, o.setup.Programs.Sidecar); err != nil {
		return err
	}
	if err := trial.Run(ctx, &o.trial, whole); err != nil {
		return err
	}
	if o.quick {
		return nil
	}
	if o.withinLimits() {
		if err := o.measureLimited(ctx, r); err != nil {
			return err
		}
	}
	if o.gateway && o.contenders == "" {
		if err := o.measureGateway(ctx, r); err != nil {
			return err
		}
	}
	if o.long {
		if err := o.measureLong(ctx, r); err != nil {
			return err
		}
	}
	if o.guest {
		o.measureGuest(ctx, r)
	}
	if o.profiles {
		whole.Skips = append(whole.Skips, o.profile(ctx)...)
	}
	return ctx.Err()
}

// withinLimits says whether some of it is measured again within limits.
func (o *options) withinLimits() bool {
	return o.limits && !o.quick && o.setup.Place == (lab.Placement{})
}

// quickTime is what the measurements of a quick run may take together: the rest of five minutes is for the programs to be built.
const quickTime = 225 * time.Second

// around is what bringing a contender up and removing it takes.
const around = 400 * time.Millisecond

// affordable is the time of a measurement with which a quick run stays below five minutes.
func (o *options) affordable() time.Duration {
	able := 0
	for _, c := range o.trial.Contenders {
		if c.Missing(&o.setup) == "" {
			able++
		}
	}
	return affordable(able, o.trial)
}

// affordable shares quickTime among what so many contenders measure. What is left to each, with all that can be given and three rounds, is the
// least here: more rounds, or more scenarios than the headline's, take longer than five minutes.
func affordable(able int, t trial.Options) time.Duration {
	rounds := able * t.Rounds
	left := quickTime
	for _, s := range t.Scenarios {
		left -= time.Duration(rounds) * (t.Warm + around + s.More)
	}
	each := left / time.Duration(max(1, rounds*len(t.Scenarios)))
	return min(max(each, 400*time.Millisecond), 2*time.Second)
}

// write leaves the report; what was measured is kept even when the run was cut short.
func (o *options) write(r *bench.Report) error {
	if o.out == "" {
		return nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	var charts []string
	for _, c := range bench.Charts {
		drawn := false
		err := create(o.out+"/"+c.File, func(w io.Writer) (err error) {
			drawn, err = bench.WriteSVG(w, r.Runs[0], c)
			return err
		})
		if err != nil {
			return err
		}
		if drawn {
			charts = append(charts, c.File)
		} else if err := os.Remove(o.out + "/" + c.File); err != nil {
			return err
		}
	}
	return errors.Join(
		create(o.out+"/bench.txt", func(w io.Writer) error { return bench.WriteGoBench(w, r) }),
		create(o.out+"/report.md", func(w io.Writer) error { return bench.WriteMarkdown(w, r, charts) }))
}

func create(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
