package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const period = 100 * time.Millisecond

// group makes a cgroup that may use a part of a CPU and answers its folder; none for no quota.
func (l *Lab) group(quota float64) (string, error) {
	if quota <= 0 {
		return "", nil
	}
	limit := strconv.FormatInt(int64(quota*float64(period/time.Microsecond)), 10)
	every := strconv.FormatInt(int64(period/time.Microsecond), 10)
	root, files := groupRoot(), map[string]string{"cpu.max": limit + " " + every}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil { // version 1
		files = map[string]string{"cpu.cfs_period_us": every, "cpu.cfs_quota_us": limit}
	}
	dir := filepath.Join(root, Unique("twb"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cgroup: %w", err)
	}
	l.Defer(func() error {
		// The processes in it were killed, but the kernel may not have taken them out yet.
		return Until("remove cgroup", 5*time.Second, func() error { return os.Remove(dir) })
	})
	for name, value := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil {
			return "", fmt.Errorf("limit cgroup: %w", err)
		}
	}
	return dir, nil
}

// groupRoot is the folder of the cpu controller: its own in version 1, the only one in version 2.
func groupRoot() string {
	for _, dir := range []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	return "/sys/fs/cgroup"
}
