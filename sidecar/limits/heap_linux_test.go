package limits

import (
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
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
	want := func(percent int) bool { return percent >= leastPercent && percent <= garbagePercent(uint64(len(live))) }
	if os.Getenv("GOGC") != "" {
		want = func(percent int) bool { return percent == 100 }
	}
	got, looked := 0, false
	for range 100 { // the first collections may be those before
		runtime.GC()
		time.Sleep(20 * time.Millisecond) // finalizers run after it, and nothing says when they have
		looked = looked || releasing.Load()
		if got = percentNow(); os.Getenv("GOGC") == "" && want(got) {
			break
		}
	}
	if !looked {
		t.Error("nobody looks after collections")
	}
	if !want(got) {
		t.Errorf("the heap grows by %d%%", got)
	}
	runtime.KeepAlive(live)
}

func percentNow() int {
	of := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(of)
	return int(of[0].Value.Uint64())
}
