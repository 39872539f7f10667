package limits

import (
	"sync"
	"time"
)

// quota is the CPU time that a control group may use within each period. The zero value is as much as there is.
type quota struct{ time, period time.Duration }

const (
	// rate is how much of the quota is spread, and burst how much may be used at once by who had no use for it before. With less of the
	// latter CPU time is lost where two processes wait for each other in turn.
	rate  = 0.97
	burst = 0.2

	lookAfter    = 200 * time.Microsecond // asking for the CPU time is a system call
	learnAfter   = 10 * time.Second       // a container's limit may change while it runs
	leastPause   = time.Millisecond       // what waits for a timer and nothing else wakes no earlier
	leastPeriod  = 20 * time.Millisecond  // of a shorter one the rest is too short to be worth a pause
	longestPause = 10 * time.Millisecond
)

// Pacer spreads the CPU time of a process with a quota over time. The kernel stops a control group that has used its quota up, with all
// threads, until the period is over: up to 100 ms in which no packet moves. Who reads packets calls Pause, which waits for 1 to 10 ms
// before it comes to that. Those who send over TCP wait with it, since their acknowledgements do; of what else comes the socket
// keeps what it has room for, as it would while the process is stopped.
type Pacer struct {
	began time.Time
	learn func() quota         // what the limit is
	used  func() time.Duration // CPU time of the process until now

	mu      sync.Mutex // guards what follows: there may be a reader for each family
	account account
	learned time.Duration // when, since began
}

// NewPacer returns one for this process. Where there is no limit, or none that can be known, it never waits.
func NewPacer() *Pacer {
	p := &Pacer{began: time.Now(), learn: cpuQuota, used: cpuTime}
	p.account = account{quota: p.learn(), used: p.used()}
	return p
}

// Pause is called after each piece of work and returns when there may be more.
func (p *Pacer) Pause() {
	if wait := p.wait(time.Since(p.began)); wait > 0 {
		time.Sleep(wait)
	}
}

func (p *Pacer) wait(now time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now-p.learned >= learnAfter {
		p.learned = now
		if q := p.learn(); q != p.account.quota {
			p.account = account{quota: q, at: now, used: p.used()}
		}
	}
	if p.account.period < leastPeriod || now-p.account.at < lookAfter {
		return 0
	}
	return p.account.owes(now, p.used())
}

// account is what may be used of a quota right now.
type account struct {
	quota
	at     time.Duration // when it was last looked at, since some beginning
	used   time.Duration // CPU time until then
	credit time.Duration // CPU time; below zero: more was used than there was
}

// owes is how long to wait, by the CPU time that was used until now. So a period has no more than the quota and a piece of work, unless
// there was a burst in it, or others go on while the caller waits. What is owed is never more than a period's, as the kernel forgives
// what was before.
func (a *account) owes(now, used time.Duration) time.Duration {
	gain := rate * float64(a.time) / float64(a.period) // of credit, in each unit of time
	a.credit += time.Duration(gain*float64(now-a.at)) - (used - a.used)
	a.credit = max(-a.time, min(a.most(), a.credit))
	a.at, a.used = now, used
	if a.credit > 0 {
		return 0
	}
	return min(longestPause, max(leastPause, time.Duration(float64(-a.credit)/gain)))
}

// most is what may be used at once.
func (a *account) most() time.Duration { return time.Duration(burst * float64(a.time)) }
