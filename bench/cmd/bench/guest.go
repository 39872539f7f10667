package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/guest"
)

// What runs in the guest. An emulated one counts time by instructions: a window of a second is as good as a long one on a machine, and
// a round takes some 35 seconds of ours. Figures of contenders repeat within 3%, whatever else the machine does.
const (
	guestContenders = "plain-kernel,kernel-sym,gateway,gateway-in-kernel,gateway-kernel"
	guestScenarios  = "up1,down1,up8,down8"
	guestRounds     = 5
	guestTime       = time.Second
	guestWarm       = 300 * time.Millisecond
	guestLimit      = 15 * time.Minute // of ours, for the whole
)

// errNoNeed is the answer of inGuest where the contenders have run on this kernel.
var errNoNeed = errors.New("this kernel has WireGuard, no guest is needed")

// measureGuest adds what a guest says to the report, or why there is none.
func (o *options) measureGuest(ctx context.Context, r *bench.Report) {
	run, err := inGuest(ctx, o.setup.Dir, os.Stderr)
	if errors.Is(err, errNoNeed) {
		return
	}
	if err != nil {
		r.Runs[0].Skips = append(r.Runs[0].Skips, bench.Skip{What: guestContenders + " in a guest", Why: err.Error()})
		return
	}
	run.Limit = "the kernel of a guest"
	r.Runs = append(r.Runs, run)
}

// inGuest compares the datapath Kernel with the kernel's own WireGuard in a guest, where this kernel has none. dir holds the programs that
// build made; progress is told what the guest says. The error says why there is nothing: errNoNeed, a *guest.UnavailableError, or
// what failed.
func inGuest(ctx context.Context, dir string, progress io.Writer) (*bench.Run, error) {
	if guest.Inside() {
		return nil, errors.New("this is the guest")
	}
	if lab.MissingWireGuard() == "" {
		return nil, errNoNeed
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	self := filepath.Join(dir, "bench")
	if err := compile(ctx, root, "./cmd/bench", self, "-s -w"); err != nil {
		return nil, err
	}
	out, err := os.MkdirTemp(dir, "guest-")
	if err != nil {
		return nil, err
	}
	err = guest.Run(ctx, guest.Command{VMRun: filepath.Join(root, "../test/guest/vm-run"), Args: append([]string{self}, guestWords(dir, out)...),
		Timeout: guestLimit, Share: out, Counted: true, Output: progress})
	if err != nil {
		return nil, fmt.Errorf("compare with the kernel's WireGuard: %w", err)
	}
	f, err := os.Open(filepath.Join(out, "bench.txt"))
	if err != nil {
		return nil, fmt.Errorf("read what the guest has measured: %w", err)
	}
	defer f.Close()
	r, err := bench.ParseGoBench(f)
	if err != nil {
		return nil, fmt.Errorf("read what the guest has measured: %w", err)
	}
	if len(r.Runs) != 1 {
		return nil, fmt.Errorf("read what the guest has measured: %d runs, want one", len(r.Runs))
	}
	return keep(r.Runs[0], strings.Split(guestContenders, ",")), nil
}

// guestWords are the arguments of the benchmark in the guest: programs from one folder, the report into the other.
func guestWords(programs, out string) []string {
	return []string{"-programs", programs, "-out", out, "-contenders", guestContenders, "-scenarios", guestScenarios, "-profiles=false", "-limits=false", "-guest=false",
		"-rounds", fmt.Sprint(guestRounds), "-time", guestTime.String(), "-warm", guestWarm.String()}
}

// keep leaves what a run says of some contenders: the guest's copy of everything else has been said by the host.
func keep(r *bench.Run, contenders []string) *bench.Run {
	out := &bench.Run{}
	for _, s := range r.Samples {
		if slices.Contains(contenders, s.Contender) {
			out.Samples = append(out.Samples, s)
		}
	}
	for _, s := range r.Skips {
		name, _, _ := strings.Cut(s.What, ":")
		if slices.Contains(contenders, name) {
			out.Skips = append(out.Skips, s)
		}
	}
	return out
}
