package limits

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"
)

func TestParseQuota(t *testing.T) {
	ms := time.Millisecond
	for text, want := range map[string]quota{
		"max 100000\n":                  {},
		"50000 100000\n":                {50 * ms, 100 * ms},
		"10000 20000":                   {10 * ms, 20 * ms},
		"":                              {},
		"50000":                         {},
		"0 100000":                      {},
		"50000 0":                       {},
		"-1 100000":                     {},
		"99999999999999999999 100000\n": {},
	} {
		if got := parseQuota(text); got != want {
			t.Errorf("parseQuota(%q) = %v, want %v", text, got, want)
		}
	}
}

func TestGroupFolders(t *testing.T) {
	for text, want := range map[string][]string{
		"0::/\n":              {"/sys/fs/cgroup", "/sys/fs/cgroup"},
		"0::/kube/pod1/abc\n": {"/sys/fs/cgroup/kube/pod1/abc", "/sys/fs/cgroup"},
		"0::/../pod1\n":       {"/sys/fs/cgroup/pod1", "/sys/fs/cgroup"},
		"4:cpuset:/x\n12:cpu,cpuacct:/y:z\n1:name=systemd:/y\n": {"/sys/fs/cgroup/cpu,cpuacct/y:z", "/sys/fs/cgroup/cpu,cpuacct"},
		"no line of it": nil,
		"":              nil,
	} {
		if got := groupFolders(text); !slices.Equal(got, want) {
			t.Errorf("groupFolders(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestReadQuota(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  quota
		ok    bool
	}{
		"version 2":           {map[string]string{"cpu.max": "50000 100000\n"}, quota{half, 2 * half}, true},
		"version 2, no limit": {map[string]string{"cpu.max": "max 100000\n"}, quota{}, true},
		"version 1":           {map[string]string{"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}, quota{half, 2 * half}, true},
		"version 1, no limit": {map[string]string{"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, quota{}, true},
		"neither":             {nil, quota{}, false},
	} {
		dir := t.TempDir()
		for file, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, ok := readQuota(dir); got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %t, want %v, %t", name, got, ok, c.want, c.ok)
		}
	}
}

// TestCPUTime checks that work counts and waiting does not.
func TestCPUTime(t *testing.T) {
	before := cpuTime()
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
		runtime.Gosched()
	}
	if got := cpuTime() - before; got <= 0 || got > 10*time.Second {
		t.Errorf("50 ms of work counted as %v", got)
	}
}
