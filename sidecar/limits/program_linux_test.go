package limits

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestReleaseProgram: pages of the program that nothing runs are no longer resident, and the program goes on.
func TestReleaseProgram(t *testing.T) {
	touchProgram(t)
	before := residentFile(t)
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	if after := residentFile(t); after > before/4*3 {
		t.Errorf("%d KiB of files are resident, and %d after", before, after)
	}
}

// touchProgram makes all of it resident.
func touchProgram(t *testing.T) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	all, err := ofFile(maps, program)
	if err != nil || len(all) == 0 {
		t.Fatalf("%d mappings of the program, %v", len(all), err)
	}
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for _, m := range all {
		if _, err := memory.ReadAt(make([]byte, m.to-m.from), int64(m.from)); err != nil {
			t.Fatal(err)
		}
	}
}

// residentFile is how much of files the process has resident, KiB.
func residentFile(t *testing.T) (n int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatalf("status says nothing of files: %v", err)
	}
	return n
}

// TestOfFile: nothing that was written is given back, whoever wrote it, and nothing of another file.
func TestOfFile(t *testing.T) {
	const smaps = `00400000-00e5b000 r-xp 00000000 fe:00 1234                               /side car
Size:              10604 kB
Rss:                5120 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
00e5b000-017c0000 r--p 00a5b000 fe:00 1234                               /side car
Rss:                2120 kB
Anonymous:             0 kB
017c0000-017d0000 r--p 013c0000 fe:00 1234                               /side car
Anonymous:             4 kB
017d0000-01850000 rw-p 013d0000 fe:00 1234                               /side car
Anonymous:             0 kB
01900000-01a00000 r-xp 00000000 fe:00 1234                               /lib/side
Anonymous:             0 kB
01c00000-01b00000 r-xp 00000000 fe:00 1234                               /side car
Anonymous:             0 kB
01d00000-01e00000 r-xp 00000000 fe:00 1234                               /side car
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7ffd0000-7ffd2000 r-xp 00000000 00:00 0                                  [vdso]
Anonymous:             0 kB
`
	got, err := ofFile(strings.NewReader(smaps), "/side car")
	if want := []addresses{{0x400000, 0xe5b000}, {0xe5b000, 0x17c0000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%x, %v, want %x", got, err, want)
	}
}

// TestForgetProgram: it waits until the process is quiet.
func TestForgetProgram(t *testing.T) {
	forgetProgram()
	began, used := time.Now(), cpuTime()
	for deadline := time.Now().Add(2 * idleProgram); time.Now().Before(deadline); { // busy
		if !releasing.Load() && cpuTime()-used > time.Since(began)/2 {
			t.Fatal("a busy process forgets its program")
		}
	}
	if cpuTime()-used < time.Since(began)/2 {
		t.Skipf("NOT TESTED: of %s this process was given %s of a CPU, which is not busy", time.Since(began), cpuTime()-used)
	}
	for deadline := time.Now().Add(10 * idleProgram); releasing.Load(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a quiet process does not forget its program")
		}
	}
}
