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

// program is one that we build.
type program struct {
	path    *string
	in, pkg string // folder from bench/, and package
}

// programs are those that every run needs, and where it looks for them.
func programs(p *contender.Programs) []program {
	return []program{
		{&p.Sidecar, "..", "./cmd/sidecar"},
		{&p.SidecarProf, ".", "./cmd/sidecar-prof"},
		{&p.Stock, ".", "./cmd/stock"},
		{&p.WireguardGo, ".", "golang.zx2c4.com/wireguard"},
		{&p.Impair, ".", "./cmd/impair"},
		{&p.Load, ".", "./cmd/load"},
		{&lab.Placed, ".", "./cmd/placed"},
	}
}

// build makes all programs, each as its makers release it: stripped, without cgo. A quick run goes without what takes minutes to build.
func build(ctx context.Context, dir string, quick bool) (p contender.Programs, err error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return p, err
	}
	for _, b := range programs(&p) {
		flags := "-s -w"
		if b.path == &p.SidecarProf {
			flags = "" // a profile wants names
		}
		*b.path = filepath.Join(dir, filepath.Base(b.pkg))
		if err := compile(ctx, filepath.Join(root, b.in), b.pkg, *b.path, flags); err != nil {
			return p, err
		}
	}
	if p.Wireproxy, err = given("wireproxy", dir); err != nil {
		return p, err
	}
	if p.SingBox, err = given("sing-box", dir); err != nil {
		return p, err
	}
	if quick {
		return p, nil
	}
	if p.Tailscaled, err = given("tailscaled", dir); err != nil || p.Tailscaled == "" {
		return p, err
	}
	p.Tailnet = filepath.Join(dir, "tailnet")
	return p, compile(ctx, filepath.Join(root, "tailnet"), ".", p.Tailnet, "-s -w")
}

// compile builds a program that needs no library of the system's.
func compile(ctx context.Context, in, pkg, to, flags string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", to, pkg)
	cmd.Dir, cmd.Env = in, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// prebuilt finds what build made in a folder.
func prebuilt(dir string) (p contender.Programs, err error) {
	for _, b := range programs(&p) {
		*b.path = filepath.Join(dir, filepath.Base(b.pkg))
		if _, err := os.Stat(*b.path); err != nil {
			return p, fmt.Errorf("find a program that is built: %w", err)
		}
	}
	return p, nil
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

// addSize notes how large our program is.
func addSize(r *bench.Run, path string) error {
	f, err := os.Stat(path)
	if err != nil {
		return err
	}
	r.Add(bench.Sample{Contender: "sidecar", Scenario: "size", Round: 1, Unit: bench.Megabytes, Value: float64(f.Size()) / 1e6})
	return nil
}

// obtain has the programs built, or takes those that are.
func (o *options) obtain(ctx context.Context, dir string) (contender.Programs, error) {
	if o.programs != "" {
		return prebuilt(o.programs)
	}
	return build(ctx, dir, o.quick)
}
