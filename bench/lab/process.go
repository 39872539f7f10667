package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Nobody is the user that unprivileged contenders run as: without capabilities, as in a restricted pod.
const Nobody = 65532

// Placement is what a process is given to run on. The zero value is the whole machine.
type Placement struct {
	CPU          int     // pinned to CPU-1; 0: not pinned
	Quota        float64 // of a CPU, by a cgroup of its own; 0: no limit
	SmallBuffers bool    // of socket buffers what a pod has on a host whose maxima are its defaults (208 KiB on most)
}

// String is the placement in words; empty: the whole machine.
func (p Placement) String() string {
	var words []string
	if p.CPU > 0 {
		words = append(words, "one CPU for each end")
	}
	if p.Quota > 0 {
		words = append(words, strconv.FormatFloat(p.Quota, 'g', -1, 64)+" CPU for each process")
	}
	if p.SmallBuffers {
		words = append(words, "socket buffers of the default size")
	}
	return strings.Join(words, " and ")
}

// Program is what to start.
type Program struct {
	Path  string
	Args  []string
	Env   []string // besides PATH
	User  uint32   // 0: root
	Place Placement
	Input io.Reader
}

// Process is a running program.
type Process struct {
	cmd    *exec.Cmd
	name   string
	out    tail
	exited chan struct{}
	err    error // set before exited is closed
}

// Placed is the path of bench/cmd/placed, which takes its place before it becomes the program.
var Placed string

// Start runs a program in the namespace until it ends or the lab closes. Standard output goes to stdout if that is not nil.
func (h *Host) Start(p Program, stdout io.Writer) (*Process, error) {
	group, err := h.lab.group(p.Place.Quota)
	if err != nil {
		return nil, err
	}
	path, args := p.Path, p.Args
	if p.Place != (Placement{}) {
		args = append([]string{"-cpu", strconv.Itoa(p.Place.CPU), "-group", group, "-small-buffers=" + strconv.FormatBool(p.Place.SmallBuffers),
			"-user", strconv.Itoa(int(p.User)), "--", path}, args...)
		path = Placed
	}
	pr := &Process{cmd: exec.Command(path, args...), name: filepath.Base(p.Path), exited: make(chan struct{})}
	pr.cmd.Stdin, pr.cmd.Stdout, pr.cmd.Stderr = p.Input, stdout, &pr.out
	if stdout == nil {
		pr.cmd.Stdout = &pr.out
	}
	pr.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LOG_LEVEL=error"}, p.Env...)
	pr.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no orphan, even when we are killed
	if p.User != 0 && path != Placed {
		pr.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.User, Gid: p.User}
	}
	h.Do(func() { err = pr.cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", pr.name, err)
	}
	go func() {
		pr.err = pr.cmd.Wait()
		close(pr.exited)
	}()
	h.lab.Defer(func() error { pr.Kill(); return nil })
	return pr, nil
}

// PID names the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running is an error once the process has ended; it shows what it said last.
func (p *Process) Running() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended (%w) and said: %s", p.name, p.err, p.out.String())
	default:
		return nil
	}
}

// Wait waits for the end, at most that long; then, or when nobody wants the result any more, it makes one.
func (p *Process) Wait(ctx context.Context, limit time.Duration) error {
	select {
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	case <-p.exited:
		if p.err != nil {
			return fmt.Errorf("%s: %w: %s", p.name, p.err, p.out.String())
		}
		return nil
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not end within %s: %s", p.name, limit, p.out.String())
	}
}

// Said is the end of what the process printed.
func (p *Process) Said() string { return p.out.String() }

// Kill ends the process and returns when it has ended.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// tail keeps the end of what is written.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 2000

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
