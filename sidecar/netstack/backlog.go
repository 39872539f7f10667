package netstack

import (
	"sync/atomic"
	"time"
)

// What streams may have waiting to be read.
//
// A sender that is not held to its share, as a kernel's TCP, fills every window that it is offered: what does not wait on the path waits here,
// in memory, and the requests of others behind it. gVisor's own moderation offers eight times of what was read in a round trip, with the round
// trip that the queue has made of it, and so is at its maximum after the first. Here a stream begins with little, less where others have much, and
// has twice as much each time that it reads two whole windows within some bare round trips: what it is offered is then some times of what the
// path carries in one. The first of the two may have been waiting; the second has come meanwhile. Where the round trip is not known, or was
// measured long ago, a long one is taken for it as long as all streams together have little.
const (
	backlogFirst = 256 << 10 // what a stream begins with, bytes; half of a buffer is its window
	backlogLeast = 32 << 10  // the same where others have much
	backlogTotal = 16 << 20  // what all together have, unless the paths carry more
	receiveMax   = 8 << 20

	// backlogTrips are the bare round trips in which two windows are read if they are too small. A sender that fills them takes two; on some paths
	// most round trips are several times the shortest.
	backlogTrips = 16
	// unknownTrip is for a path of which nothing is known.
	unknownTrip = 100 * time.Millisecond
)

// backlog is a stream's, used by its one reader.
type backlog struct {
	size  int           // of the buffer
	all   *atomic.Int64 // of all streams' buffers
	got   int           // since then
	since time.Time
	span  time.Duration // how long it is counted; zero: not yet
	sure  bool          // the path carries that much
}

// leastBacklog is what any stream begins with: it holds a few packets.
func leastBacklog(mtu int) int { return min(max(backlogLeast, 4*mtu), backlogFirst) }

// begin takes the stream's part of what is left, and at least what it has: what a peer was promised with that is never taken back.
func (b *backlog) begin(all *atomic.Int64, has int) {
	const parts = 16
	b.all = all
	b.size = max(has, min(int(backlogTotal-all.Load())/parts, backlogFirst))
	all.Add(int64(b.size))
}

// end gives it back.
func (b *backlog) end() { b.all.Add(-int64(b.size)) }

// took counts what was read, and says whether the buffer has another size now. bare is the path's bare round trip, and whether it is known.
func (b *backlog) took(n int, now time.Time, bare func(time.Time) (time.Duration, bool)) bool {
	if b.size >= receiveMax {
		return false
	}
	if b.span == 0 || now.Sub(b.since) > b.span {
		trip, known := bare(now)
		if !known {
			trip = unknownTrip
		}
		b.got, b.since, b.span, b.sure = 0, now, backlogTrips*trip, known
	}
	if b.got += n; b.got < b.size || !b.sure && b.all.Load()+int64(b.size) > backlogTotal {
		return false
	}
	b.all.Add(int64(b.size))
	b.size, b.span = 2*b.size, 0
	return true
}

// bare is the bare round trip, if it was measured lately.
func (p *path) bare(now time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trip, p.trip != 0 && now.Sub(p.measuredAt) < pathRenewal
}
