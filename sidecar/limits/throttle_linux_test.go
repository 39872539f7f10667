package limits

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unseen is the exit code of a process that cannot see its own limit.
const unseen = 3

// TestMain is also the process that TestPacerInGroup limits: it enters the group in BUSY_IN first, as a container's does.
func TestMain(m *testing.M) {
	group := os.Getenv("BUSY_IN")
	if group == "" {
		os.Exit(m.Run())
	}
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	pause := func() {}
	if os.Getenv("PACED") != "" {
		pause = NewPacer().Pause
	}
	if cpuQuota() == (quota{}) {
		os.Exit(unseen)
	}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		for piece := time.Now().Add(200 * time.Microsecond); time.Now().Before(piece); {
			continue
		}
		pause()
	}
}

// TestPacerInGroup has the kernel say how often it stopped a process that always has work, with and without a Pacer.
func TestPacerInGroup(t *testing.T) {
	with, periods := throttled(t, "PACED=1")
	without, _ := throttled(t)
	t.Logf("stopped %d times in %d periods, %d without", with, periods, without)
	if without < 5 {
		t.Fatalf("only %d stops without pacing: the group has no limit", without)
	}
	if with > without/3 {
		t.Errorf("stopped %d times, %d without pacing", with, without)
	}
}

// throttled runs a busy process with a tenth of a CPU and answers in how many periods, of how many, it was stopped.
func throttled(t *testing.T, env ...string) (stops, periods int) {
	t.Helper()
	group := newGroup(t)
	c := exec.Command(os.Args[0])
	c.Env = append(append(os.Environ(), "BUSY_IN="+group, "GOMAXPROCS=1"), env...)
	out, err := c.CombinedOutput()
	if c.ProcessState.ExitCode() == unseen {
		t.Skip("SKIPPED: the control groups of this machine are not those that a process here sees; NOT TESTED: pacing within a quota")
	}
	if err != nil {
		t.Fatalf("busy process: %v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(group, "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	return statistic(t, string(text), "nr_throttled"), statistic(t, string(text), "nr_periods")
}

func statistic(t *testing.T, text, name string) int {
	t.Helper()
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %q", name, text)
	return 0
}

// newGroup makes a control group with a tenth of a CPU, where the system lets us.
func newGroup(t *testing.T) string {
	t.Helper()
	for _, v := range []struct {
		root  string
		files map[string]string
	}{
		{filepath.Join(groups, "cpu"), map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "10000"}},
		{groups, map[string]string{"cpu.max": "10000 100000"}},
	} {
		group := filepath.Join(v.root, fmt.Sprintf("tenantwire-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			for range 100 { // the kernel may not have taken the dead out yet
				if os.Remove(group) == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("%s cannot be removed", group)
		})
		ok := true
		for name, value := range v.files {
			ok = ok && os.WriteFile(filepath.Join(group, name), []byte(value), 0) == nil
		}
		if ok {
			return group
		}
	}
	t.Skip("SKIPPED: no control group can be made here, that needs root and a writable cgroup file system with the CPU controller")
	return ""
}
