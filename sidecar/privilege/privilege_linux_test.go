package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asChild says to the test's program, started again as a process of its own, what to do.
const asChild = "TENANTWIRE_PRIVILEGE_CHILD"

func TestMain(m *testing.M) {
	if steps := os.Getenv(asChild); steps != "" {
		if err := child(steps); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child raises or drops as told, and prints after each step what every thread has in effect.
func child(steps string) error {
	for range 4 { // threads that exist before
		go func() { time.Sleep(time.Minute) }()
	}
	for step := range strings.FieldsSeq(steps) {
		do := map[string]func() error{"raise": Raise, "drop": Drop, "look": func() error { return nil }}[step]
		if err := do(); err != nil {
			return err
		}
		threads, err := filepath.Glob("/proc/self/task/*/status")
		if err != nil {
			return err
		}
		has := 0
		for _, f := range threads {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // a thread that ended
			}
			_, rest, _ := strings.Cut(string(b), "CapEff:\t")
			var effective uint64
			if _, err := fmt.Sscanf(rest, "%x", &effective); err != nil {
				return err
			}
			if effective&netAdmin != 0 {
				has++
			} else {
				has -= 1000
			}
		}
		switch {
		case has > 0:
			fmt.Println(step, "all")
		case has%1000 == 0:
			fmt.Println(step, "none")
		default:
			fmt.Println(step, "some")
		}
	}
	return nil
}

// start runs the steps in a process as a container's runtime starts one that is not root, under allowPrivilegeEscalation: false: with
// the capability in its bounding set, and permitted to the process that starts the program, or without.
func start(t *testing.T, program, steps string, granted bool) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = []string{asChild + "=" + steps}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	if granted {
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN} // lost again when a program with a file capability starts
	}
	type result struct {
		out []byte
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread, changed for good, ends with the goroutine
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		for c := uintptr(0); c <= unix.CAP_LAST_CAP && err == nil; c++ {
			if c != unix.CAP_NET_ADMIN || !granted {
				err = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
			}
		}
		if err != nil {
			done <- result{err: err}
			return
		}
		out, err := cmd.CombinedOutput()
		done <- result{out, err}
	}()
	r := <-done
	return string(r.out), r.err
}

// permittedProgram is the test's program with a file capability, where another user can start it.
func permittedProgram(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "privilege") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, b, 0o755)); err != nil { //nolint:gosec // for another user
		t.Fatal(err)
	}
	// cap_net_admin=p, as build/image writes it.
	value := []byte{0, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(program, "security.capability", value, 0); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) {
			t.Skipf("set a file capability: %v: it takes root and a file system that has them. NOT TESTED: capabilities of a process that is not root", err)
		}
		t.Fatal(err)
	}
	return program
}

// withC is set where the C library is linked in: Go leaves it to that library then to change all threads at once, and refuses. The sidecar is
// built without.
var withC bool

func TestTakenWhereGrantedAndGivenUpForGood(t *testing.T) {
	if withC {
		t.Skip("SKIPPED: the race detector comes with the C library, beside which no program can change the capabilities of all threads. NOT TESTED: taking and giving up CAP_NET_ADMIN")
	}
	program := permittedProgram(t)
	for _, c := range []struct {
		granted bool
		want    string
	}{
		{true, "look none\nraise all\nraise all\ndrop none\nraise none\n"},
		{false, "look none\nraise none\nraise none\ndrop none\nraise none\n"}, // it has to start all the same
	} {
		if out, err := start(t, program, "look raise raise drop raise", c.granted); err != nil || out != c.want {
			t.Errorf("granted %t: got %q, %v; want %q", c.granted, out, err, c.want)
		}
	}
}
