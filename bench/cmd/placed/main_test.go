package main

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain becomes a child that asks for a buffer and says what it got, before and after the filter.
func TestMain(m *testing.M) {
	if os.Getenv("PLACED_CHILD") == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread()
	first := buffer()
	if err := keepBuffersSmall(); err != nil {
		println(err.Error())
		os.Exit(2)
	}
	if second := buffer(); first.got <= first.was || second.got != second.was {
		println("before:", first.was, first.got, "after:", second.was, second.got)
		os.Exit(3)
	}
	os.Exit(0)
}

type sizes struct{ was, got int }

// buffer asks a new socket for a little more than it has, within every host's limit.
func buffer() sizes {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		panic(err)
	}
	defer unix.Close(fd)
	was, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, was); err != nil { // the kernel doubles it
		panic(err)
	}
	got, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return sizes{was, got}
}

func TestBuffersStaySmall(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PLACED_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
