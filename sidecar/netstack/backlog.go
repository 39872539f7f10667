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
// times of what the path carries in one. It may have an equal part of a total: of those that are read much, and of what the others have not filled. Whoever
// has more than that, because it came early, is offered less as it reads. On long paths it may have twice as much, where little waits, and keeps it.
const (
	backlogFirst = 256 << 10 // what a stream begins with, bytes; half of a buffer is its window
	backlogFar   = 1 << 20   // the same on a long path, where growing takes long
	backlogOpen  = 32 << 10  // what its peer is promised before: a first flight of ten packets has room
	backlogLeast = 16 << 10  // what it keeps where others have much
	backlogTotal = 32 << 20  // what all together have, unless long paths carry more
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

	// unreadTotal is what may wait to be read in all where a buffer grows beyond its part, bytes.
	unreadTotal = 8 << 20
	// backlogRoof is where none grows any more, but to what it might begin with: what was offered is never taken back, and streams that are idle
	// keep it.
	backlogRoof = 128 << 20
	// countEvery is how often what waits is counted, for each thousand streams.
	countEvery = 10 * time.Millisecond
	// busyFor is for how long a stream counts as read much: one in a thousand that take turns is not read more often.
	busyFor = 100 * time.Millisecond
)

// backlogs are a Stack's.
type backlogs struct {
	offered atomic.Int64 // all buffers, bytes

	mu   sync.Mutex
	each map[*backlog]struct{}

	counting atomic.Bool // guards what follows
	counted  time.Time   // the last time
	list     []*backlog  // what each was then; only its memory is kept

	unread atomic.Int64 // bytes that waited then
	part   atomic.Int64 // of the total for each that was read much, bytes; zero: not counted yet
	long   atomic.Int64 // the same where paths are long
	share  atomic.Int64 // the same for each that there is
}

// count counts what waits and who is read, unless that was done a moment ago. Whoever counts waits for endpoints, nobody else does.
func (all *backlogs) count(now time.Time) {
	if !all.counting.CompareAndSwap(false, true) {
		return
	}
	defer all.counting.Store(false)
	since := now.Sub(all.counted)
	if since < countEvery*time.Duration(1+len(all.list)/1000) {
		return
	}
	all.counted = now
	all.mu.Lock()
	all.list = slices.AppendSeq(all.list[:0], maps.Keys(all.each))
	all.mu.Unlock()
	var sum, kept, busy, stalled int64
	for _, b := range all.list {
		n := int64(b.unread())
		sum += n
		switch {
		case b.busy(now, since):
			busy++
		case n > 0:
			kept += 2 * n // of a buffer half is for what is not payload
			stalled++
		}
	}
	all.unread.Store(sum)
	all.long.Store(2 * backlogTotal / max(busy, 1))
	all.share.Store(backlogTotal / 2 / int64(max(len(all.list), 1)))
	all.part.Store(max((backlogTotal-kept)/max(busy, 1), backlogTotal/2/max(busy+stalled, 1)))
	clear(all.list)
}

// busy says whether some packets were read, or so many in each busyFor if it was asked less often, now or lately. Who counts asks.
func (b *backlog) busy(now time.Time, since time.Duration) bool {
	const packets = backlogLeast / 8
	if float64(b.read.Swap(0)) >= packets*max(1, float64(since)/float64(busyFor)) {
		b.busyAt = now
	}
	return now.Sub(b.busyAt) < busyFor
}

// backlog is a stream's, used by its one reader.
type backlog struct {
	size   int // of the buffer
	least  int // it takes some packets
	all    *backlogs
	fresh  int // read since then, less what had been waiting
	since  time.Time
	span   time.Duration // how long it is counted; zero: not yet
	far    bool          // the path is a long one, as far as is known
	passed int           // read since the buffer has this size

	// These are for who counts.
	unread func() int   // how much waits to be read, bytes
	read   atomic.Int64 // bytes, since the last count
	busyAt time.Time    // when much was found read; used by nobody else
}

// openBacklog is what a handshake promises: it holds a few packets.
func openBacklog(mtu int) int { return min(max(backlogOpen, 4*mtu), backlogFirst) }

// begin takes the stream's part of what is left, and at least what it has: what a peer was promised with that is never taken back.
func (b *backlog) begin(all *backlogs, has int, trip time.Duration) {
	const parts = 16
	first := backlogFirst
	if trip >= farTrip {
		first = backlogFar
	}
	b.all, b.busyAt, b.far = all, time.Now(), trip >= farTrip
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
	b.read.Add(int64(n))
	if b.span == 0 || now.Sub(b.since) > b.span {
		waits, trip := look(now)
		switch {
		case trip == 0: // not known any more
			trip = unknownTrip
		default:
			b.far = trip >= farTrip
		}
		b.fresh, b.since, b.span = -n-waits, now, backlogTrips*trip
		b.all.count(now)
	}
	b.fresh += n
	b.passed += n
	size := b.next()
	if size == b.size {
		return false
	}
	b.all.offered.Add(int64(size - b.size))
	b.size, b.span, b.passed = size, 0, 0
	return true
}

// next is the size that the buffer should have. It shrinks by an eighth, and again once so much has been read: what the peer had been promised
// before fills half of the larger one, and has room in the smaller with three quarters of its size for what is not payload.
func (b *backlog) next() int {
	part := b.size / 8
	switch most := min(max(b.most(), b.least), receiveMax); {
	case b.fresh >= b.size/2 && b.size < most:
		return min(2*b.size, most)
	case b.passed >= part && b.size > most+most/4:
		return max(most, b.size-part)
	}
	return b.size
}

// most is how large the buffer may be. Who is far keeps what it has: it was given for what the path carries.
func (b *backlog) most() int {
	offered, most, little := b.all.offered.Load(), int(b.all.part.Load()), b.all.unread.Load() <= unreadTotal
	switch {
	case most == 0:
		return b.size
	case offered > backlogRoof && little:
		most = min(most, max(b.size, backlogFirst))
	case offered > backlogRoof:
		most = int(b.all.share.Load())
	case b.far && little:
		most = max(most, int(b.all.long.Load()))
	case offered-int64(b.size)+backlogLittle <= backlogTotal:
		most = max(most, backlogLittle)
	}
	if b.far {
		most = max(most, b.size)
	}
	return most
}

// waits is how much waits to be read, and the path's bare round trip.
func (c *stream) waits(now time.Time) (int, time.Duration) {
	return c.Unread(), c.flight.path.bare(now)
}

// Unread is how much waits to be read, bytes.
func (c *stream) Unread() int {
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
