package privilege

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sets are a thread's capabilities. The kernel splits each set into two words of 32 bits; ours is in the first.
type sets [2]unix.CapUserData

const netAdmin = 1 << unix.CAP_NET_ADMIN

// Raise puts CAP_NET_ADMIN into effect where it is permitted. Where it is not, nothing changes and that is no error: what needs the
// capability will say so.
func Raise() error {
	have, err := current()
	if err != nil || have[0].Permitted&netAdmin == 0 || have[0].Effective&netAdmin != 0 {
		return err
	}
	have[0].Effective |= netAdmin
	if err := set(have); err != nil {
		return fmt.Errorf("take CAP_NET_ADMIN: %w", err)
	}
	return nil
}

// Drop gives CAP_NET_ADMIN up: after it, no thread of this process can have it again.
func Drop() error {
	have, err := current()
	if err != nil || have[0].Permitted&netAdmin == 0 {
		return err
	}
	have[0].Effective &^= netAdmin
	have[0].Permitted &^= netAdmin
	have[0].Inheritable &^= netAdmin
	if err := set(have); err != nil {
		return fmt.Errorf("give up CAP_NET_ADMIN: %w", err)
	}
	return nil
}

// current are the capabilities of the calling thread; those of the others are the same, as only set changes them.
func current() (sets, error) {
	var s sets
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &s[0]); err != nil {
		return s, fmt.Errorf("read capabilities: %w", err)
	}
	return s, nil
}

// set changes every thread: capabilities are a thread's own, and goroutines run on any.
func set(s sets) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&s[0])), 0)
	if errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}
