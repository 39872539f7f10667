package load

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Cost is what a process has used: CPU since it began, or within a window where two are subtracted; memory at its most since
// forgetPeak, and now.
type Cost struct {
	CPU       time.Duration
	Peak, Now int64 // bytes
}

// tick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every Linux that Go runs on.
const tick = time.Second / 100

// ReadCost looks at a process.
func ReadCost(pid int) (Cost, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Cost{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Cost{}, err
	}
	var c Cost
	if c.CPU, err = parseStat(string(stat)); err != nil {
		return Cost{}, err
	}
	if c.Peak, err = parseStatus(string(status), "VmHWM:"); err != nil {
		return Cost{}, err
	}
	c.Now, err = parseStatus(string(status), "VmRSS:")
	return c, err
}

// readCosts is zero for a process that is gone.
func readCosts(pids []int) []Cost {
	out := make([]Cost, len(pids))
	for i, pid := range pids {
		out[i], _ = ReadCost(pid)
	}
	return out
}

// forgetPeak begins the peak anew; where the kernel refuses, the peak is that of the process's whole life, never too small.
func forgetPeak(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// parseStat adds user and system time. The program's name stands in brackets and may hold spaces and brackets itself.
func parseStat(s string) (time.Duration, error) {
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	const user, system = 14 - 3, 15 - 3 // of proc(5), counted from the field after the name
	if len(f) <= system {
		return 0, errors.New("stat: too few fields")
	}
	u, err := strconv.ParseInt(f[user], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	k, err := strconv.ParseInt(f[system], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	return time.Duration(u+k) * tick, nil
}

func parseStatus(s, field string) (int64, error) {
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == field && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("status: no %s", field) // a process that has ended but is not waited for has no memory
}
