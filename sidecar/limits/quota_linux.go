package limits

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const groups = "/sys/fs/cgroup"

// cpuQuota is that of the process's control group. In a container the group may be seen as the root, or where it is on the node; what the
// groups above it may use is not known here.
func cpuQuota() quota {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return quota{}
	}
	for _, folder := range groupFolders(string(text)) {
		if q, ok := readQuota(folder); ok {
			return q
		}
	}
	return quota{}
}

// groupFolders are where the files of the group may be that has the CPU, by the lines of /proc/PID/cgroup: in the hierarchy of
// version 2 or in that of the controller.
func groupFolders(text string) (out []string) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 || f[1] != "" && !slices.Contains(strings.Split(f[1], ","), "cpu") {
			continue
		}
		root := filepath.Join(groups, f[1])
		out = append(out, filepath.Join(root, filepath.Join("/", f[2])), root)
	}
	return out
}

// readQuota reads the files of a group in the way of version 2 or of version 1; false: they are not there.
func readQuota(folder string) (quota, bool) {
	if text, err := os.ReadFile(filepath.Join(folder, "cpu.max")); err == nil {
		return parseQuota(string(text)), true
	}
	most, err := os.ReadFile(filepath.Join(folder, "cpu.cfs_quota_us"))
	if err != nil {
		return quota{}, false
	}
	period, err := os.ReadFile(filepath.Join(folder, "cpu.cfs_period_us"))
	return parseQuota(string(most) + " " + string(period)), err == nil
}

// parseQuota reads time and period in microseconds, as cpu.max has them. What is no such time, as "max" and -1, is no limit.
func parseQuota(text string) quota {
	f := strings.Fields(text)
	if len(f) != 2 {
		return quota{}
	}
	t, terr := strconv.ParseUint(f[0], 10, 32)
	p, perr := strconv.ParseUint(f[1], 10, 32)
	if terr != nil || perr != nil || t == 0 || p == 0 {
		return quota{}
	}
	return quota{time.Duration(t) * time.Microsecond, time.Duration(p) * time.Microsecond}
}

// cpuTime is what all threads of the process have used, in the kernel and outside.
func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
