package relay

import (
	"sync/atomic"
	"time"
)

// The kernel's WireGuard hands a stream over in small pieces, on one busy CPU packet by packet. Whoever reads each at once is woken for
// each, reads and writes 1,400 bytes, and with that has the kernel acknowledge them, which is one more packet to encrypt and to send. So
// in the middle of a long transfer whoever has read little waits before reading again: what comes meanwhile is read in one piece and
// acknowledged once. Where pieces are large, as on a fast link, nothing waits.
const (
	coalesceAfter = 20 * time.Millisecond // of a run, before its reads wait: a wait is short beside it
	coalesceFrom  = 64 << 10              // bytes of a run, likewise
	coalesceGap   = 40 * time.Millisecond // of silence, which ends a run
	coalesceBelow = 16 << 10              // what is little
	coalesceWait  = time.Millisecond      // as far as the runtime's timers go
)

// coalescer says when the reads of one direction wait. A run is what came without a write the other way and without a gap: who asks
// and is answered is not kept waiting, however often, unless one answer takes longer than coalesceAfter. Its methods are for one
// goroutine.
type coalescer struct {
	replies *atomic.Uint32 // writes of the other direction
	seen    uint32         // of replies, at the last read
	run     int            // bytes, no more than coalesceFrom
	since   time.Time      // of the run's first bytes
	last    time.Time      // of its last
	little  bool           // the last read of a run that is long enough
}

// before is asked before each read, how long to wait.
func (c *coalescer) before() time.Duration {
	if c.little && c.replies.Load() == c.seen {
		return coalesceWait
	}
	return 0
}

// after is told how many bytes each read brought, whether they filled the buffer, so that there may be more, and the time.
func (c *coalescer) after(n int, full bool, now time.Time) {
	if replies := c.replies.Load(); replies != c.seen || now.Sub(c.last) > coalesceGap {
		c.seen, c.run, c.since = replies, 0, now
	}
	c.run, c.last = min(c.run+n, coalesceFrom), now
	c.little = n < coalesceBelow && !full && c.run == coalesceFrom && now.Sub(c.since) >= coalesceAfter
}
