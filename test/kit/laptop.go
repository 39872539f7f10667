package kit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Laptop is a machine outside of the cluster, on the network of its nodes: a network namespace with what a stock Linux has for WireGuard,
// wg-quick and wireguard-go.
type Laptop struct {
	t     T
	netns string
	dir   string
	iface string // of WireGuard
	conf  string
}

var laptops atomic.Int32

// NewLaptop makes one, and takes it away when the test ends. Tests that cannot have one are skipped.
func NewLaptop(t T) *Laptop {
	t.Helper()
	NeedNodes(t)
	if !tunDevice() {
		t.Skipf("this machine has no /dev/net/tun. NOT TESTED: wg-quick against a gateway")
	}
	for _, tool := range []string{"wg-quick", "wg", "ip", "workload"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("a laptop needs %s: %v", tool, err)
		}
	}
	dir, err := os.MkdirTemp("", "laptop")
	if err != nil {
		t.Fatalf("make a folder: %v", err)
	}
	n := laptops.Add(1)
	name := filepath.Base(os.Getenv("TW_STATE"))
	l := &Laptop{t: t, netns: fmt.Sprintf("%s-laptop%d", name, n), dir: dir, iface: fmt.Sprintf("twq%d-%d", os.Getpid()%1e6, n)}
	l.conf = filepath.Join(l.dir, l.iface+".conf")
	l.must("go", "build", "-C", filepath.Join(root(), "test"), "-o", filepath.Join(l.dir, "wireguard-go"), "golang.zx2c4.com/wireguard")
	t.Cleanup(l.remove)
	l.must("ip", "netns", "add", l.netns)
	l.must("ip", "-n", name+"-net", "link", "add", fmt.Sprintf("laptop%d", n), "type", "veth", "peer", "name", "eth0", "netns", l.netns)
	l.must("ip", "-n", name+"-net", "link", "set", fmt.Sprintf("laptop%d", n), "master", "br0", "up")
	l.must("ip", "-n", l.netns, "link", "set", "lo", "up")
	l.must("ip", "-n", l.netns, "addr", "add", fmt.Sprintf("10.60.0.%d/24", 200+n), "dev", "eth0")
	l.must("ip", "-n", l.netns, "link", "set", "eth0", "up")
	return l
}

// Config is the file that wg-quick takes.
func (l *Laptop) Config() string { return l.conf }

// Up brings the tunnel up as the file says.
func (l *Laptop) Up() {
	l.t.Helper()
	if r := l.Run("env", "WG_QUICK_USERSPACE_IMPLEMENTATION="+filepath.Join(l.dir, "wireguard-go"), "LOG_LEVEL=error", "wg-quick", "up", l.conf); r.Code != 0 {
		l.t.Fatalf("wg-quick up: %s", r)
	}
}

// Run runs a command on the laptop.
func (l *Laptop) Run(command ...string) Result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.netns}, command...)...)
	// Into files: what stays in the background, as wireguard-go does, would hold pipes open.
	stdout, stderr := l.file("stdout"), l.file("stderr")
	defer stdout.Close()
	defer stderr.Close()
	c.Stdout, c.Stderr = stdout, stderr
	err := c.Run()
	r := Result{Stdout: l.read(stdout), Stderr: l.read(stderr)}
	if err != nil {
		r.Code = 1
	}
	return r
}

func (l *Laptop) file(name string) *os.File {
	l.t.Helper()
	f, err := os.CreateTemp(l.dir, name)
	if err != nil {
		l.t.Fatalf("make a file: %v", err)
	}
	return f
}

func (l *Laptop) read(f *os.File) string {
	l.t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		l.t.Fatalf("read what was printed: %v", err)
	}
	return string(b)
}

// Start runs a command on the laptop until the test ends.
func (l *Laptop) Start(command ...string) {
	l.t.Helper()
	c := exec.Command("ip", append([]string{"netns", "exec", l.netns}, command...)...) //nolint:gosec // a test's own words
	if err := c.Start(); err != nil {
		l.t.Fatalf("start %v: %v", command, err)
	}
	l.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
}

func (l *Laptop) must(command string, args ...string) {
	l.t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil { //nolint:gosec // a test's own words
		l.t.Fatalf("%s %v: %v: %s", command, args, err, out)
	}
}

// remove ends the tunnel first: wireguard-go ends with its interface.
func (l *Laptop) remove() {
	defer func() { _ = os.RemoveAll(l.dir) }()
	_ = exec.Command("ip", "-n", l.netns, "link", "del", l.iface).Run() //nolint:gosec // a test's own words
	if out, err := exec.Command("ip", "netns", "del", l.netns).CombinedOutput(); err != nil {
		l.t.Errorf("remove a laptop: %v: %s", err, out)
	}
}
