package netstack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// What streams may have waiting to be read.
//
// A sender that is not held to its share, as a kernel's TCP, fills every window that it is offered: what does not wait on the path waits here,
// in memory, and the requests of others behind it. gVisor's own moderation offers eight times of what was read in a round trip, with the round
// trip that the queue has made of it, and so is at its maximum after the first. Here a stream begins with little, less where others have much, and
// has twice as much each time that it reads within some bare round trips a whole window of what came meanwhile: what it is offered is then some
// times of what the path carries in one. Where the round trip is not known, or was measured long ago, a long one is taken for it as long as
// all streams together have little. None grows while much waits to be read in all: who stops reading keeps what it was offered.
const (
	backlogFirst = 256 << 10 // what a stream begins with, bytes; half of a buffer is its window
	backlogLeast = 32 << 10  // the same where others have much
	backlogFar   = 1 << 20   // the same on a long path, where growing takes long
	backlogTotal = 16 << 20  // what all together have, unless the paths carry more
	receiveMax   = 8 << 20

	// backlogTrips are the bare round trips in which a window is read if it is too small. A sender that fills it takes one; on some paths most
	// are several times the shortest.
	backlogTrips = 8
	// farTrip is the bare round trip of a long path.
	farTrip = 10 * time.Millisecond
	// unknownTrip is for a path of which nothing is known.
	unknownTrip = 100 * time.Millisecond

	unreadTotal = 8 << 20               // what may wait to be read in all where a buffer grows, bytes
	countEvery  = 10 * time.Millisecond // how often that is counted
)

// backlogs are a Stack's.
type backlogs struct {
	offered atomic.Int64 // all buffers, bytes

	mu      sync.Mutex
	each    map[*backlog]struct{}
	counted time.Time
	unread  int // bytes, when it was counted
}

// waiting is how much waits to be read in all, bytes. It is a moment old.
func (all *backlogs) waiting(now time.Time) int {
	all.mu.Lock()
	defer all.mu.Unlock()
	if now.Sub(all.counted) >= countEvery {
		all.counted, all.unread = now, 0
		for b := range all.each {
			all.unread += b.unread()
		}
	}
	return all.unread
}

// backlog is a stream's, used by its one reader.
type backlog struct {
	size   int // of the buffer
	all    *backlogs
	unread func() int // how much waits to be read, bytes; it is called by others
	fresh  int        // read since then, less what had been waiting
	since  time.Time
	span   time.Duration // how long it is counted; zero: not yet
	sure   bool          // the path carries that much
}

// leastBacklog is what any stream begins with: it holds a few packets.
func leastBacklog(mtu int) int { return min(max(backlogLeast, 4*mtu), backlogFirst) }

// begin takes the stream's part of what is left, and at least what it has: what a peer was promised with that is never taken back.
func (b *backlog) begin(all *backlogs, has int, trip time.Duration) {
	const parts = 16
	first := backlogFirst
	if trip >= farTrip {
		first = backlogFar
	}
	b.all = all
	b.size = max(has, min(int(backlogTotal-all.offered.Load())/parts, first))
	all.offered.Add(int64(b.size))
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.each == nil {
		all.each = map[*backlog]struct{}{}
	}
	all.each[b] = struct{}{}
}

// end gives it back.
func (b *backlog) end() {
	b.all.offered.Add(-int64(b.size))
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	delete(b.all.each, b)
}

// took counts what was read, and says whether the buffer has another size now. look says what waits now, and the path's bare round trip, zero
// if that is not known.
func (b *backlog) took(n int, now time.Time, look func(time.Time) (waits int, trip time.Duration)) bool {
	if b.size >= receiveMax {
		return false
	}
	if b.span == 0 || now.Sub(b.since) > b.span {
		waits, trip := look(now)
		b.sure = trip != 0
		if !b.sure {
			trip = unknownTrip
		}
		b.fresh, b.since, b.span = -n-waits, now, backlogTrips*trip
	}
	if b.fresh += n; b.fresh < b.size/2 || !b.mayGrow(now) {
		return false
	}
	more := min(b.size, receiveMax-b.size)
	b.all.offered.Add(int64(more))
	b.size, b.span = b.size+more, 0
	return true
}

func (b *backlog) mayGrow(now time.Time) bool {
	if !b.sure && b.all.offered.Load()+int64(b.size) > backlogTotal {
		return false
	}
	return b.all.waiting(now) <= unreadTotal
}

// waits is how much waits to be read, and the path's bare round trip.
func (c *stream) waits(now time.Time) (int, time.Duration) {
	return c.unread(), c.flight.path.bare(now)
}

// unread is how much waits to be read, bytes.
func (c *stream) unread() int {
	n, _ := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	return n
}

// bare is the bare round trip if it was measured lately, else zero.
func (p *path) bare(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.measuredAt) >= pathRenewal {
		return 0
	}
	return p.trip
}
