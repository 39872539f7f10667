package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain becomes a child that asks for buffers and says what it got, before and after they are limited; or who answers it.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == answering:
		main()
	case os.Getenv("PLACED_CHILD") == "":
		os.Exit(m.Run())
	default:
		child()
	}
}

func child() {
	runtime.LockOSThread()
	if os.Getenv("PLACED_CHILD") == "asks" {
		show("-")
		return
	}
	before := ask(unix.SO_RCVBUF, 300_000)
	if err := limitBuffers(); err != nil {
		println(err.Error())
		os.Exit(2)
	}
	if os.Getenv("PLACED_CHILD") == "twice" { // its own child asks
		cmd := exec.Command(os.Args[0])
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "PLACED_CHILD=asks"), os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			os.Exit(3)
		}
		return
	}
	show(before)
}

func show(before string) {
	for range 3 {
		fmt.Println(before, ask(unix.SO_RCVBUF, 300_000), ask(unix.SO_SNDBUF, 300_000), ask(unix.SO_RCVBUFFORCE, 300_000))
	}
}

// ask asks a new socket for a buffer and returns what it has then, or the error.
func ask(option, size int) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		panic(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size); err != nil {
		return err.Error()
	}
	got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if err != nil {
		panic(err)
	}
	return strconv.Itoa(got)
}

// TestBuffersAreLimited: whoever asks for more than the default gets that, doubled as the kernel doubles it, and nothing by privilege.
func TestBuffersAreLimited(t *testing.T) {
	limit := func(name string) int {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Skipf("NOT TESTED: this system does not say what it gives: %v", err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	most := min(300_000, limit("/proc/sys/net/core/rmem_max"))
	limited := fmt.Sprintln(2*limit("/proc/sys/net/core/rmem_default"), 2*limit("/proc/sys/net/core/wmem_default"), unix.EPERM)
	for child, before := range map[string]string{"once": strconv.Itoa(2 * most), "twice": "-"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PLACED_CHILD="+child)
		out, err := cmd.CombinedOutput()
		if want := before + " " + limited; err != nil || string(out) != strings.Repeat(want, 3) {
			t.Errorf("%s: %v\n%swant three times\n%s", child, err, out, want)
		}
	}
}
