package gateway

import (
	"sync/atomic"
	"time"
)

// fence is how long the Lease is ours for certain. The elector ends us soon after that, but only when it gets to run: a process that was
// stopped, or starved, would send packets in the name of its successor first. So every message that leaves asks here.
type fence struct {
	began time.Time
	until atomic.Int64 // since began, by a clock that does not jump
}

func newFence() *fence { return &fence{began: time.Now()} }

func (f *fence) now() time.Duration { return time.Since(f.began) }

func (f *fence) open() bool { return int64(f.now()) < f.until.Load() }

func (f *fence) close() { f.until.Store(0) }

// extend opens the fence until some time after a moment.
func (f *fence) extend(from, by time.Duration) { f.until.Store(int64(from + by)) }
