package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// platform is what a program runs on.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "-" + p.arch }

// client is the program of people's own machines.
const client = "kubectl-tenantwire"

var (
	images  = []string{"operator", "sidecar", "gateway"}
	servers = []platform{{"linux", "amd64"}, {"linux", "arm64"}}
	clients = []platform{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"}}
)

// program is one that was built.
type program struct {
	name string // of its folder in cmd
	platform
	file string
}

// label is the program with its platform, as files are named by it.
func (p program) label() string { return p.name + "-" + p.platform.String() }

// release is one being made.
type release struct {
	options
	commit   string    // its full id
	created  time.Time // when that was made: the time of everything
	changed  bool      // there is more than the commit
	work     string    // a folder that is gone afterwards
	programs []program
	digests  map[string]string // of the images' indexes by program: sha256:...
}

// assemble makes the release anew, and verifies it.
func assemble(ctx context.Context, o options) (err error) {
	r := &release{options: o, digests: map[string]string{}}
	if err := r.source(ctx); err != nil {
		return err
	}
	if r.work, err = os.MkdirTemp("", "release"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(r.work) }()
	if err := emptied(o.out); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{r.compile, r.describe, r.makeImages, r.makeArchives, r.makeManifests, r.makeKrew, r.attest, r.sums} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return verify(o)
}

// emptied makes a folder that holds nothing but the mark by which it is known as a release's, whole or not. One that holds what no
// release left there stays as it is.
func emptied(dir string) error {
	files, err := filesOf(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(files) > 0 && !slices.Contains(files, sumsFile) {
		return fmt.Errorf("-o: %s is not empty, and no release: it has no %s. Name another folder, or empty it", dir, sumsFile)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sumsFile), nil, 0o644) //nolint:gosec // for everybody
}

// source finds out what is released.
func (r *release) source(ctx context.Context) error {
	commit, err := r.command(ctx, nil, "git", "rev-parse", "HEAD")
	if err != nil {
		return fmt.Errorf("find the commit: %w", err)
	}
	status, err := r.command(ctx, nil, "git", "status", "--porcelain")
	if err != nil {
		return fmt.Errorf("find what is not committed: %w", err)
	}
	r.commit, r.changed = commit, status != ""
	if r.changed && !r.dirty {
		return fmt.Errorf("not committed:\n%s\ncommit it, or say -dirty", status)
	}
	text, err := r.command(ctx, nil, "git", "show", "-s", "--format=%ct", "HEAD")
	if err != nil {
		return fmt.Errorf("find the commit's time: %w", err)
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("read the commit's time: %w", err)
	}
	r.created = time.Unix(seconds, 0).UTC()
	return nil
}

// compile builds every program for every platform.
func (r *release) compile(ctx context.Context) error {
	for _, name := range images {
		for _, p := range servers {
			r.programs = append(r.programs, program{name, p, ""})
		}
	}
	for _, p := range r.clients {
		r.programs = append(r.programs, program{client, p, ""})
	}
	for i := range r.programs {
		p := &r.programs[i]
		p.file = filepath.Join(r.work, p.label())
		start := time.Now()
		if err := r.compileOne(ctx, *p); err != nil {
			return fmt.Errorf("build %s: %w", p.label(), err)
		}
		r.log("built %s in %s", p.label(), time.Since(start).Round(time.Second/10))
	}
	return nil
}

// compileOne leaves nothing to the environment that would be seen in the program.
func (r *release) compileOne(ctx context.Context, p program) error {
	env := []string{"CGO_ENABLED=0", "GOOS=" + p.os, "GOARCH=" + p.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOTOOLCHAIN=local",
		"GOEXPERIMENT=", "GOFIPS140=off"}
	_, err := r.command(ctx, env, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+r.version, "-o", p.file, "./cmd/"+p.name)
	return err
}

// command runs one in the repository and returns what it prints, without the space around it.
func (r *release) command(ctx context.Context, env []string, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env = r.root, append(os.Environ(), env...)
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// of are the programs of a name.
func (r *release) of(name string) []program {
	return slices.DeleteFunc(slices.Clone(r.programs), func(p program) bool { return p.name != name })
}

func goVersion() string { return runtime.Version() }
