// Command placed takes its place (a CPU, a cgroup, small socket buffers, an ordinary user) and then becomes another program, so
// that the other is there from its first instruction on: a Go program counts its CPUs when it starts.
//
//	placed [-cpu N] [-group DIR] [-small-buffers] [-user UID] -- PROGRAM ARGS...
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	do := run
	if len(os.Args) == 2 && os.Args[1] == answering {
		do = answer
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "placed:", err)
		os.Exit(1)
	}
}

func run() error {
	cpu := flag.Int("cpu", 0, "pin to CPU N-1; 0: do not")
	group := flag.String("group", "", "cgroup folder to join")
	small := flag.Bool("small-buffers", false, "limit socket buffers to what one may have whose host's maxima are its defaults")
	user := flag.Int("user", 0, "user and group to become; 0: root")
	flag.Parse()
	args := flag.Args()
	if len(args) == 0 {
		return fmt.Errorf("no program")
	}
	runtime.LockOSThread() // affinity and filters belong to the thread that execs
	if *small {            // first, as who answers has nobody's place
		if err := limitBuffers(); err != nil {
			return fmt.Errorf("limit socket buffers: %w", err)
		}
	}
	if *group != "" {
		if err := os.WriteFile(filepath.Join(*group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	if *cpu > 0 {
		var set unix.CPUSet
		set.Set(*cpu - 1)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pin: %w", err)
		}
	}
	if *user != 0 {
		if err := become(*user); err != nil {
			return fmt.Errorf("become user: %w", err)
		}
	}
	return syscall.Exec(args[0], args, os.Environ())
}

func become(user int) error {
	for _, f := range []func() error{
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setgid(user) },
		func() error { return syscall.Setuid(user) },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) // another user's process had it taken away
}
