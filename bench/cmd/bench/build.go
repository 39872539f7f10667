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
	if p.Wireproxy, err = given("wireproxy", dir); err != nil {
		return p, err
	}
	p.SingBox, err = given("sing-box", dir)
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

// absent says of the peers that no run can have, why.
func absent(r *bench.Run) {
	skip := bench.Skip{What: "tailscaled", Why: "it joins a network only through a control server, which this benchmark does not run"}
	r.Skips = append(r.Skips, skip)
	fmt.Fprintf(os.Stderr, "SKIPPED %s: %s\n", skip.What, skip.Why)
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
