package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/trial"
)

// profile runs our sidecar with a profiler in it, under each load that budgets are of, and keeps pprof's text. A profile that fails
// costs nothing but itself: the answer says which and why.
func (o *options) profile(ctx context.Context) (failed []bench.Skip) {
	for _, scenario := range []string{"up1", "down1", "up8", "down8", "rtt-load", "conns"} {
		if err := o.profileOne(ctx, scenario); err != nil {
			failed = append(failed, bench.Skip{What: "profile of " + scenario, Why: err.Error()})
		}
	}
	return failed
}

func (o *options) profileOne(ctx context.Context, scenario string) error {
	folder := filepath.Join(o.out, "profiles")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	c, err := contender.Find([]string{"netstack-sym"})
	if err != nil {
		return err
	}
	s, err := find([]string{scenario})
	if err != nil {
		return err
	}
	setup := o.setup
	setup.Profile = true
	t := trial.Options{Setup: &setup, Contenders: c, Scenarios: s, Rounds: 1, Time: max(2*o.trial.Time, 8*time.Second), Warm: o.trial.Warm, Progress: io.Discard}
	during := make(chan error, 1)
	go func() { during <- o.sample(ctx, scenario, folder, t) }()
	var scratch bench.Run // figures with a profiler running are no figures, but what failed is of use
	ran := trial.Run(ctx, &t, &scratch)
	for _, s := range scratch.Skips {
		ran = errors.Join(ran, errors.New(s.What+": "+s.Why))
	}
	return errors.Join(ran, <-during)
}

// sample waits until the sidecar is there, takes a profile of the heap and then one of the CPU while the streams run.
func (o *options) sample(ctx context.Context, scenario, folder string, t trial.Options) error {
	socket := contender.Socket(o.setup.Dir)
	defer func() { _ = os.Remove(socket) }()
	if err := waitFor(ctx, socket); err != nil {
		return err
	}
	web := lab.SocketClient(socket)
	seconds := max(1, int(t.Time.Seconds()*0.5))
	profiles := []struct{ name, query, show string }{
		{"heap", "heap", "-sample_index=inuse_space"},
		{"cpu", fmt.Sprintf("profile?seconds=%d", seconds), ""},
	}
	raw := func(name string) string { return filepath.Join(o.setup.Dir, scenario+"-"+name+".pb.gz") }
	for _, p := range profiles {
		if err := fetch(ctx, web, "http://sidecar/debug/pprof/"+p.query, raw(p.name)); err != nil {
			return err
		}
	}
	for _, p := range profiles { // not before: it may take longer than the streams run
		if err := top(ctx, o.setup.Programs.SidecarProf, raw(p.name), filepath.Join(folder, scenario+"-"+p.name+".txt"), p.show); err != nil {
			return err
		}
	}
	return nil
}

func fetch(ctx context.Context, c *http.Client, url, to string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return create(to, func(w io.Writer) error { _, err := io.Copy(w, res.Body); return err })
}

// top writes the dearest functions, by themselves and with what they call.
func top(ctx context.Context, program, raw, to, show string) error {
	var text []string
	for _, sort := range []string{"", "-cum"} {
		args := []string{"tool", "pprof", "-top", "-nodecount=45"}
		for _, a := range []string{sort, show} {
			if a != "" {
				args = append(args, a)
			}
		}
		out, err := exec.CommandContext(ctx, "go", append(args, program, raw)...).Output()
		if err != nil {
			return fmt.Errorf("pprof: %w", err)
		}
		text = append(text, string(out))
	}
	return os.WriteFile(to, []byte(strings.Join(text, "\n")), 0o644)
}

// waitFor waits for a socket that something listens on.
func waitFor(ctx context.Context, socket string) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			time.Sleep(time.Second) // until the streams run
			return nil
		}
	}
	return errors.New("the sidecar serves no profiles")
}
