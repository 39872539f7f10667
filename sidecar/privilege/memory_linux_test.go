package privilege

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestMemoryIsProtected(t *testing.T) {
	if err := ProtectMemory(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); n != 0 || err != nil {
		t.Errorf("dumpable is %d, %v, want 0", n, err)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); l != (unix.Rlimit{}) || err != nil {
		t.Errorf("the limit of core files is %+v, %v, want 0", l, err)
	}
}
