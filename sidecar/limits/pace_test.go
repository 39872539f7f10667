package limits

import (
	"testing"
	"time"
)

const half = 50 * time.Millisecond // of a period of 100

// run has a process work that takes CPU time as it comes, in pieces, and answers how much it used within each period.
func run(a *account, pieces int, each time.Duration) (periods map[int]time.Duration, longest time.Duration) {
	periods = map[int]time.Duration{}
	var now, used time.Duration
	for range pieces {
		now, used = now+each, used+each
		periods[int(now/a.period)] += each
		wait := a.owes(now, used)
		now, longest = now+wait, max(longest, wait)
	}
	return periods, longest
}

// TestSpread checks that one who always has work uses neither more than the quota in a period nor much less, but for a burst in the
// first, and never waits for long.
func TestSpread(t *testing.T) {
	for _, q := range []quota{{half, 2 * half}, {10 * time.Millisecond, 100 * time.Millisecond}, {80 * time.Millisecond, 100 * time.Millisecond}} {
		for _, each := range []time.Duration{50 * time.Microsecond, 300 * time.Microsecond, 900 * time.Microsecond} {
			a := &account{quota: q}
			a.credit = a.most()
			periods, longest := run(a, 20000, each)
			delete(periods, len(periods)-1) // it has only begun
			for n, used := range periods {
				most := q.time + each
				if n == 0 {
					most += a.most()
				}
				if used > most || used < q.time*9/10 {
					t.Errorf("%v in pieces of %v: period %d has %v", q, each, n, used)
				}
			}
			if longest > longestPause {
				t.Errorf("%v in pieces of %v: waits for %v", q, each, longest)
			}
		}
	}
}

// TestIdleSavesLittle checks that one who did nothing for long has no more at once than what is kept for that.
func TestIdleSavesLittle(t *testing.T) {
	a := account{quota: quota{half, 2 * half}}
	if wait := a.owes(time.Hour, 0); wait != 0 {
		t.Errorf("who did nothing waits for %v", wait)
	}
	if want := half / 5; a.credit != want {
		t.Errorf("credit %v, want %v", a.credit, want)
	}
}

// TestDebtIsBounded checks that what others used while the caller waited is forgiven in the end, as the kernel does.
func TestDebtIsBounded(t *testing.T) {
	a := account{quota: quota{half, 2 * half}}
	a.owes(time.Second, time.Second) // twice as much as there was
	if a.credit != -half {
		t.Fatalf("credit %v, want %v", a.credit, -half)
	}
	var now, waits = time.Second, 0
	for wait := longestPause; wait > 0; waits++ {
		now += wait
		wait = a.owes(now, time.Second)
	}
	if now > time.Second+4*half {
		t.Errorf("a debt of one period is paid after %v, in %d waits", now-time.Second, waits)
	}
}

// TestPacer checks that a limit which comes and goes while the process runs is heeded, and that no limit costs nothing.
func TestPacer(t *testing.T) {
	var limit quota
	asked := 0
	used := time.Duration(0)
	p := &Pacer{began: time.Now(), learn: func() quota { return limit }, used: func() time.Duration { asked++; return used }}
	busy := func(from, to time.Duration) (waited time.Duration) {
		for now := from; now < to; now += time.Millisecond {
			used += time.Millisecond
			waited += p.wait(now)
		}
		return waited
	}
	if w := busy(0, 9*time.Second); w != 0 || asked != 0 {
		t.Errorf("without a limit: waited %v, asked for the time %d times", w, asked)
	}
	limit = quota{half, 2 * half}
	if w := busy(11*time.Second, 11*time.Second+time.Millisecond); w != 0 {
		t.Errorf("what was used before there was a limit is owed: waited %v", w)
	}
	if w := busy(11*time.Second+time.Millisecond, 12*time.Second); w == 0 {
		t.Error("a new limit is not heeded")
	}
	limit = quota{}
	if w := busy(22*time.Second, 23*time.Second); w != 0 {
		t.Errorf("a limit that is gone: waited %v", w)
	}
}
