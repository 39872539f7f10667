package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/lab"
)

// versioned are the modules whose versions decide what was compared.
var versioned = []string{"golang.zx2c4.com/wireguard", "github.com/tailscale/wireguard-go", "gvisor.dev/gvisor", "golang.org/x/crypto"}

// facts say where and how the run is made; what it is made of only where there is the source to ask.
func facts(ctx context.Context, words []string, source bool) []bench.Fact {
	out := []bench.Fact{
		{Name: "Machine", Value: fmt.Sprintf("%d × %s, %s MiB", runtime.NumCPU(), field("/proc/cpuinfo", "model name"), memory())},
		{Name: "Kernel", Value: kernel()},
		{Name: "Go", Value: runtime.Version() + " " + runtime.GOARCH},
	}
	if source {
		out = append(out, sources(ctx)...)
	}
	for _, s := range lab.Tuning {
		out = append(out, bench.Fact{Name: "Set in both namespaces", Value: strings.ReplaceAll(s.Name, "/", ".") + " = " + strings.Join(s.Values, " or, where refused, ")})
	}
	return append(out,
		bench.Fact{Name: "net.core.rmem_max", Value: first("/proc/sys/net/core/rmem_max")},
		bench.Fact{Name: "Command", Value: "go run ./cmd/bench " + strings.Join(words, " ")},
		bench.Fact{Name: "Load average before", Value: loadAverage()})
}

// smallBuffers says what the section with small socket buffers has.
func smallBuffers() bench.Fact {
	place := lab.Placement{SmallBuffers: true}
	return bench.Fact{Name: "With " + place.String(), Value: first("/proc/sys/net/core/rmem_default") + " bytes, or twice that for who asks for more, as in a pod on a host " +
		"whose net.core.rmem_max is as much"}
}

// sources are the versions of what is compared.
func sources(ctx context.Context) []bench.Fact {
	out := []bench.Fact{{Name: "Commit", Value: commit(ctx)}}
	for _, m := range versioned {
		out = append(out, bench.Fact{Name: "Module " + filepath.Base(filepath.Dir(m)) + "/" + filepath.Base(m), Value: version(ctx, m)})
	}
	return out
}

func first(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

func field(path, name string) string {
	for line := range strings.Lines(first(path)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func memory() string {
	var kb int
	_, _ = fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d kB", &kb)
	return fmt.Sprint(kb >> 10)
}

// kernel is the release alone: the rest of uname names the host.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	release := unix.ByteSliceToString(u.Release[:])
	if i := strings.IndexByte(release, '-'); i > 0 {
		release = release[:i]
	}
	return "Linux " + release
}

func loadAverage() string {
	f := strings.Fields(first("/proc/loadavg"))
	return strings.Join(f[:min(3, len(f))], " ")
}

func commit(ctx context.Context) string {
	hash, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	out := strings.TrimSpace(string(hash))
	if changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", "../sidecar", "../cmd/sidecar").Output(); err == nil && len(changed) > 0 {
		out += " with changes in sidecar/"
	}
	return out
}

func version(ctx context.Context, module string) string {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// moduleRoot is the folder of bench/, wherever the command is run from within it.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/tenantwire/tenantwire/bench").Output()
	if err != nil {
		return "", fmt.Errorf("find bench/ (run this from within it): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
