package privilege

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// ProtectMemory keeps the private key from leaving with the process's memory: neither into a core file, nor to another process of
// the same user, as there may be one in a pod that shares its process namespace. Root of the node sees everything regardless.
func ProtectMemory() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set limit of core files to 0: %w", err)
	}
	// A program that collects core files is not bound by that limit. Of a process that is not dumpable it gets nothing.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process not dumpable: %w", err)
	}
	return nil
}
