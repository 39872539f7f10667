package datapath

import (
	"sync"
	"sync/atomic"
	"time"
)

// Fence is until when anything may leave, by a clock that does not jump: for a process that must fall silent by itself, at a moment that is known
// before, because another will speak in its place. A nil Fence is always open. All methods are safe for concurrent use.
type Fence struct {
	began time.Time
	until atomic.Int64 // since began

	mu       sync.Mutex // one change at a time, each told before the next
	follower func(until time.Time)
}

// NewFence makes a fence that is shut.
func NewFence() *Fence { return &Fence{began: time.Now()} }

// Now is the fence's clock.
func (f *Fence) Now() time.Duration { return time.Since(f.began) }

// Open says whether something may leave now.
func (f *Fence) Open() bool { return f == nil || int64(f.Now()) < f.until.Load() }

// Close shuts the fence at once.
func (f *Fence) Close() { f.set(0) }

// Extend opens the fence until some time after a moment.
func (f *Fence) Extend(from, by time.Duration) { f.set(from + by) }

func (f *Fence) set(until time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until.Store(int64(until))
	if f.follower != nil {
		f.follower(f.began.Add(until))
	}
}

// Follow has a datapath told until when the fence is open, now and whenever that changes, where it cannot ask for each packet. There is one
// follower at a time; nil: nobody follows any more.
func (f *Fence) Follow(told func(until time.Time)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.follower = told
	if told != nil {
		told(f.began.Add(time.Duration(f.until.Load())))
	}
}
