//go:build linux

// Package guest runs a program in a throw-away Linux guest whose kernel has WireGuard, where this machine's has none. It starts
// test/guest/vm-run, which says how: the guest sees this machine's files read-only, and programs for it are linked statically.
package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command is what to run, as root, in a guest.
type Command struct {
	VMRun   string        // path of test/guest/vm-run
	Args    []string      // absolute path of the program, and its arguments
	Timeout time.Duration // of the program, to the second; the guest ends with it
	Share   string        // a folder that it may write to, at the same path; empty: none
	Counted bool          // the clock of an emulated guest counts instructions, 1 ns each, so that figures repeat
	Output  io.Writer     // what the program says, as it comes, and what vm-run says of the guest
}

// UnavailableError says that no guest could be started here, or that it died: nothing is known about the program.
type UnavailableError struct{ Why string }

func (e *UnavailableError) Error() string { return "no guest could be run: " + e.Why }

// RunTests runs tests of the calling test program in a guest, by their names without "Test", with -short. It takes limit at most, after which what
// hangs is seen in a dump of the goroutines; env is added to the environment, NAME=VALUE. said is what came of it. The error is Run's, or says
// that not all of them passed.
func RunTests(ctx context.Context, vmRun string, tests []string, limit time.Duration, env ...string) (said string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	args := slices.Concat([]string{"/usr/bin/env"}, env, []string{self, "-test.run", "^Test(" + strings.Join(tests, "|") + ")$", "-test.short", "-test.v", "-test.timeout", limit.String()})
	var out bytes.Buffer
	err = Run(ctx, Command{VMRun: vmRun, Timeout: limit + time.Minute, Args: args, Output: io.MultiWriter(&out, os.Stdout)}) // as it comes: an emulated guest can take minutes
	if passed := strings.Count(out.String(), "\n--- PASS"); err == nil && passed < len(tests) {
		err = fmt.Errorf("%d of %d tests passed in the guest", passed, len(tests))
	}
	return out.String(), err
}

// noGuest is vm-run's exit status where the guest, not the program, failed.
const noGuest = 125

// Run runs the command and waits for its end. The error is an *UnavailableError where there was no guest to run it in.
func Run(ctx context.Context, c Command) error {
	cmd := exec.CommandContext(ctx, c.VMRun, c.args()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it takes the guest with it
	cmd.WaitDelay = 10 * time.Second
	var said bytes.Buffer
	cmd.Stdout = io.MultiWriter(&said, c.Output)
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	var status *exec.ExitError
	if errors.As(err, &status) && status.ExitCode() == noGuest {
		return &UnavailableError{lastLine(said.String())}
	}
	if err != nil {
		return fmt.Errorf("run %s in the guest: %w", c.Args[0], err)
	}
	return nil
}

func (c Command) args() []string {
	// One CPU: emulated ones do not always see in time that another has patched kernel code, as setting up nftables does.
	out := []string{"--cpus", "1", "--timeout", strconv.Itoa(int(c.Timeout.Seconds()))}
	if c.Share != "" {
		out = append(out, "--share", c.Share)
	}
	if c.Counted {
		out = append(out, "--icount", "0")
	}
	return append(append(out, "--"), c.Args...)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
