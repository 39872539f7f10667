package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/lab"
)

// build makes all programs, each as its makers release it: stripped, without cgo.
func build(ctx context.Context, dir string) (p contender.Programs, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return p, err
	}
	for _, b := range []struct {
		path    *string
		in, pkg string
	}{
		{&p.Sidecar, "..", "./cmd/sidecar"},
		{&p.SidecarProf, ".", "./cmd/sidecar-prof"},
		{&p.Stock, ".", "./cmd/stock"},
		{&p.WireguardGo, ".", "golang.zx2c4.com/wireguard"},
		{&p.Impair, ".", "./cmd/impair"},
		{&p.Load, ".", "./cmd/load"},
		{&lab.Placed, ".", "./cmd/placed"},
	} {
		*b.path = filepath.Join(dir, filepath.Base(b.pkg))
		flags := "-s -w"
		if b.path == &p.SidecarProf {
			flags = "" // a profile wants names
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", *b.path, b.pkg)
		cmd.Dir, cmd.Env = filepath.Join(root, b.in), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build %s: %w\n%s", b.pkg, err, out)
		}
	}
	p.Wireproxy, err = given("wireproxy", dir)
	return p, err
}

// given copies a peer's binary to where an ordinary user may run it; none is no error.
func given(name, dir string) (string, error) {
	from := os.Getenv("BENCH_PEERS")
	if from == "" {
		return "", nil
	}
	b, err := os.ReadFile(filepath.Join(from, name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, b, 0o755)
}

// peers says of every other binary in BENCH_PEERS why it does not take part.
func peers(r *bench.Run) {
	why := map[string]string{
		"tailscaled": "it joins a network only through a control server, which this benchmark does not run",
		"sing-box":   "no adapter has been written for it",
	}
	for _, name := range []string{"tailscaled", "sing-box"} {
		if from := os.Getenv("BENCH_PEERS"); from == "" {
			r.Skips = append(r.Skips, bench.Skip{What: name, Why: "no binary given; " + why[name]})
		} else {
			r.Skips = append(r.Skips, bench.Skip{What: name, Why: why[name]})
		}
		fmt.Fprintf(os.Stderr, "SKIPPED %s: %s\n", name, r.Skips[len(r.Skips)-1].Why)
	}
}

// addSize notes how large our program is.
func addSize(r *bench.Run, path string) error {
	f, err := os.Stat(path)
	if err != nil {
		return err
	}
	r.Add(bench.Sample{Contender: "sidecar", Scenario: "size", Round: 1, Unit: bench.Megabytes, Value: float64(f.Size()) / 1e6})
	return nil
}
