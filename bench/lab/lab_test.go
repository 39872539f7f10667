package lab

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// need skips where namespaces cannot be made.
func need(t *testing.T) {
	t.Helper()
	if why := Missing(); why != "" {
		t.Skip(why)
	}
}

func newLab(t *testing.T) *Lab {
	t.Helper()
	need(t)
	l := &Lab{}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func newHost(t *testing.T, l *Lab) *Host {
	t.Helper()
	h, err := l.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestCloseGoesOnAndBackwards(t *testing.T) {
	var l Lab
	var order []int
	bad := errors.New("bad")
	for i := range 3 {
		l.Defer(func() error {
			order = append(order, i)
			return map[bool]error{true: bad}[i == 2]
		})
	}
	if err := l.Close(); !errors.Is(err, bad) || len(order) != 3 || order[0] != 2 || order[2] != 0 {
		t.Error(order, err)
	}
	if err := l.Close(); err != nil || len(order) != 3 {
		t.Error("undone twice:", order, err)
	}
}

func TestHostsAreConnectedAndVanish(t *testing.T) {
	l := newLab(t)
	a, b := newHost(t, l), newHost(t, l)
	if err := Connect(Plug{a, "eth0", netip.MustParsePrefix("198.51.100.1/24")}, Plug{b, "eth0", netip.MustParsePrefix("198.51.100.2/24")}); err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	var err error
	b.Do(func() { listener, err = net.Listen("tcp", "198.51.100.2:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var c net.Conn
	a.Do(func() { c, err = net.DialTimeout("tcp", listener.Addr().String(), 10*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	process, err := a.Start(Program{Path: "/bin/sleep", Args: []string{"1000"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if process.Running() == nil {
		t.Error("a process outlives its lab")
	}
	for _, h := range []*Host{a, b} {
		if _, err := os.Stat("/run/netns/" + h.Name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", h.Name, err)
		}
	}
}

func TestPlacement(t *testing.T) {
	l := newLab(t)
	Placed = filepath.Join(t.TempDir(), "placed")
	if out, err := exec.Command("go", "build", "-o", Placed, "../cmd/placed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(filepath.Dir(Placed), 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, l)
	say := func(p Program) string {
		t.Helper()
		var out bytes.Buffer
		process, err := h.Start(p, &out)
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Wait(t.Context(), 20*time.Second); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	if got := say(Program{Path: "/usr/bin/nproc", Place: Placement{CPU: 1}}); got != "1" {
		t.Errorf("pinned to one CPU, it sees %s", got)
	}
	if got := say(Program{Path: "/usr/bin/id", Args: []string{"-u"}, User: Nobody, Place: Placement{CPU: 1}}); got != "65532" {
		t.Errorf("user %s", got)
	}
	if got := say(Program{Path: "/usr/bin/id", Args: []string{"-G"}, User: Nobody}); got != "65532" {
		t.Errorf("groups %s without a placement", got)
	}
	groups := say(Program{Path: "/bin/cat", Args: []string{"/proc/self/cgroup"}, Place: Placement{Quota: 0.5}})
	if !strings.Contains(groups, "/twb") {
		t.Errorf("not in a cgroup of ours:\n%s", groups)
	}
	if left, err := filepath.Glob(groupRoot() + "/twb" + "*"); err != nil || len(left) == 0 {
		t.Error("no cgroup while the lab is open:", left, err)
	}
}

func TestOwner(t *testing.T) {
	for name, want := range map[string]int{"twb-123-4": 123, "/run/netns/twb-77-1": 77, "twb-x-1": 0, "twi-5-1": 0, "twb-5": 0, "twb-0-1": 0, "twb--3-1": 0, "": 0} {
		if pid, ok := owner(name); ok != (want != 0) || ok && pid != want {
			t.Errorf("%q: %d %v, want %d", name, pid, ok, want)
		}
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var p tail
	for range 1000 {
		_, _ = p.Write([]byte("0123456789"))
	}
	_, _ = p.Write([]byte("last words"))
	if s := p.String(); len(s) > tailSize || !strings.HasSuffix(s, "last words") {
		t.Errorf("%d bytes, ending %q", len(s), s[len(s)-10:])
	}
}
