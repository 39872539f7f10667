package limits

import (
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestGarbagePercent: little may double, and much grows by heapRoom, or a tenth.
func TestGarbagePercent(t *testing.T) {
	for lives, want := range map[uint64]int{
		0: 100, heapRoom / 2: 100, heapRoom: 100, 2 * heapRoom: 50, 4 * heapRoom: 25, 10 * heapRoom: 10, 1000 * heapRoom: 10, math.MaxUint64: 10,
	} {
		if got := garbagePercent(lives); got != want {
			t.Errorf("%d%% where %d MiB live, want %d", got, lives>>20, want)
		}
	}
}

// TestWatchCollections: a process in which much lives is collected long before that has doubled, and one that is told how early is left alone.
func TestWatchCollections(t *testing.T) {
	if os.Getenv("OF_A_PROCESS") != "" {
		growAndCheck(t)
		return
	}
	for _, gogc := range []string{"", "100"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestWatchCollections$", "-test.v")
		cmd.Env = append(os.Environ(), "OF_A_PROCESS=1", "GOGC="+gogc)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("GOGC=%s: %v\n%s", gogc, err, out)
		}
	}
}

func growAndCheck(t *testing.T) {
	watchCollections()
	live := make([]byte, 8*heapRoom)
	want := garbagePercent(uint64(len(live)))
	if os.Getenv("GOGC") != "" {
		want = 100
	}
	got := 0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		got = debug.SetGCPercent(100)
		debug.SetGCPercent(got)
		if got <= want && os.Getenv("GOGC") == "" {
			break
		}
		if os.Getenv("GOGC") != "" && time.Until(deadline) < 19*time.Second {
			break
		}
	}
	if got > want || got < leastPercent {
		t.Errorf("the heap grows by %d%%, want %d", got, want)
	}
	runtime.KeepAlive(live)
}
