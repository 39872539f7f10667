package netstack

import (
	"maps"
	"slices"
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
	// backlogLittle has a window that takes a whole message.
	backlogLittle = 128 << 10
	receiveMax    = 8 << 20

	// backlogTrips are the bare round trips in which a window is read if it is too small. A sender that fills it takes one; on some paths most
	// are several times the shortest.
	backlogTrips = 8
	// farTrip is the bare round trip of a long path.
	farTrip = 10 * time.Millisecond
	// unknownTrip is for a path of which nothing is known.
	unknownTrip = 100 * time.Millisecond

	// unreadTotal is what may wait to be read in all where a buffer grows, bytes.
	unreadTotal = 8 << 20
	// backlogRoof is what all together never have more of, but for what each begins with.
	backlogRoof = 128 << 20
	// countEvery is how often what waits is counted, for each thousand streams.
	countEvery = 10 * time.Millisecond
)

// backlogs are a Stack's.
type backlogs struct {
	offered atomic.Int64 // all buffers, bytes

	mu   sync.Mutex
	each map[*backlog]struct{}

	counting atomic.Bool  // guards what follows
	counted  time.Time    // the last time
	list     []*backlog   // what each was then; only its memory is kept
	unread   atomic.Int64 // bytes that waited
}

// waiting is how much waits to be read in all, bytes, or that it is more than unreadTotal. It is a moment old. Whoever counts waits for
// endpoints, nobody else does.
func (all *backlogs) waiting(now time.Time) int64 {
	if all.counting.CompareAndSwap(false, true) {
		if now.Sub(all.counted) >= countEvery*time.Duration(1+len(all.list)/1000) {
			all.count()
			all.counted = now
		}
		all.counting.Store(false)
	}
	return all.unread.Load()
}

func (all *backlogs) count() {
	all.mu.Lock()
	all.list = slices.AppendSeq(all.list[:0], maps.Keys(all.each))
	all.mu.Unlock()
	var n int64
	for _, b := range all.list {
		if n += int64(b.unread()); n > unreadTotal {
			break
		}
	}
	all.unread.Store(n)
	clear(all.list)
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

// mayGrow says whether a buffer may be twice as large. Each may have an equal part of the total, and a little whatever waits elsewhere.
func (b *backlog) mayGrow(now time.Time) bool {
	offered := b.all.offered.Load() + int64(b.size)
	switch {
	case 2*b.size <= backlogTotal/b.all.streams(), b.size < backlogLittle && offered <= 2*backlogTotal:
		return true
	case b.size >= backlogFirst && (!b.sure && offered > backlogTotal || offered > backlogRoof):
		return false
	}
	return b.all.waiting(now) <= unreadTotal
}

func (all *backlogs) streams() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return max(len(all.each), 1)
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
