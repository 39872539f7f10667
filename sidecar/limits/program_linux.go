package limits

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// idleProgram is how long a process is quiet before pages of its program are given back.
const idleProgram = 2 * time.Second

var releasing atomic.Bool

// forgetProgram gives back the pages of the program that have been run, once the process is quiet. Most of what an idle sidecar has resident is
// its program, and most of that only its start has run. What is run again is mapped again from the file, sixteen pages at a time. Best effort.
func forgetProgram() {
	if releasing.CompareAndSwap(false, true) {
		forgetAfter(cpuTime())
	}
}

// forgetAfter does so after a while in which the process uses no twentieth of a CPU beyond used, or looks again then.
func forgetAfter(used time.Duration) {
	time.AfterFunc(idleProgram, func() {
		if now := cpuTime(); now-used > idleProgram/20 {
			forgetAfter(now)
			return
		}
		_ = releaseProgram()
		releasing.Store(false)
	})
}

// releaseProgram unmaps all pages of the program that are as they are in its file, so that nothing is lost.
func releaseProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close()
	all, err := ofFile(maps, program)
	for _, m := range all {
		if _, _, code := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); code != 0 {
			err = errors.Join(err, fmt.Errorf("release the program's pages %x-%x: %w", m.from, m.to, code))
		}
	}
	return err
}

// addresses are a range of memory.
type addresses struct{ from, to uintptr }

// ofFile finds in smaps (proc_pid_smaps(5)) what is mapped of a file and nobody has written to: neither the program, nor a linker before it
// was made read-only, nor a debugger or a probe of the kernel's.
func ofFile(smaps io.Reader, file string) (all []addresses, err error) {
	var m addresses
	found := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && !strings.HasSuffix(f[0], ":"): // a mapping begins: addresses, rights, offset, device, inode, path
			n, _ := fmt.Sscanf(f[0], "%x-%x", &m.from, &m.to)
			found = n == 2 && m.from < m.to && len(f) > 5 && !strings.Contains(f[1], "w") && strings.HasSuffix(line, " "+file)
		case found && len(f) > 1 && f[0] == "Anonymous:":
			if f[1] == "0" {
				all = append(all, m)
			}
			found = false
		}
	}
	return all, lines.Err()
}
