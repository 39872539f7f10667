package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetns runs f on a thread inside the network namespace that the file names. A socket belongs to the namespace it
// was made in, so what f opens keeps working on every thread afterwards.
func inNetns(file string, f func() error) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", file, err)
	}
	defer func() { _ = unix.Close(fd) }()
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and no other code lands in the namespace
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			errs <- fmt.Errorf("enter network namespace %s: %w", file, err)
			return
		}
		errs <- f()
	}()
	return <-errs
}
