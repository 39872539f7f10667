package netstack

import (
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
// times of what the path carries in one. Where the round trip is not known, or was measured long ago, a long one is taken for it. All streams together
// have no more than a short path needs, but for those on long paths: an application that stops reading keeps what its stream was offered.
const (
	backlogFirst = 256 << 10 // what a stream begins with, bytes; half of a buffer is its window
	backlogLeast = 32 << 10  // the same where others have much
	backlogFar   = 1 << 20   // the same on a long path, where growing takes long
	backlogTotal = 16 << 20  // what all together have, unless paths are long; each has its least in any case
	// backlogMessage has a window that takes a whole message: short ones cost twice as much a byte. Until they have it streams grow to twice the total.
	backlogMessage = 128 << 10
	receiveMax     = 8 << 20

	// backlogTrips are the bare round trips in which a window is read if it is too small. A sender that fills it takes one; on some paths most
	// are several times the shortest.
	backlogTrips = 8
	// farTrip is the bare round trip of a long path.
	farTrip = 10 * time.Millisecond
	// unknownTrip is for a path of which nothing is known.
	unknownTrip = 100 * time.Millisecond
)

// backlog is a stream's, used by its one reader.
type backlog struct {
	size  int           // of the buffer
	all   *atomic.Int64 // of all streams' buffers
	fresh int           // read since then, less what had been waiting
	since time.Time
	span  time.Duration // how long it is counted; zero: not yet
	far   bool          // the path is known to be long: it carries much
}

// leastBacklog is what any stream begins with: it holds a few packets.
func leastBacklog(mtu int) int { return min(max(backlogLeast, 4*mtu), backlogFirst) }

// begin takes the stream's part of what is left, and at least what it has: what a peer was promised with that is never taken back.
func (b *backlog) begin(all *atomic.Int64, has int, trip time.Duration) {
	const parts = 16
	first := backlogFirst
	if trip >= farTrip {
		first = backlogFar
	}
	b.all = all
	b.size = max(has, min(int(backlogTotal-all.Load())/parts, first))
	all.Add(int64(b.size))
}

// end gives it back.
func (b *backlog) end() { b.all.Add(-int64(b.size)) }

// took counts what was read, and says whether the buffer has another size now. look says what waits now, and the path's bare round trip, zero
// if that is not known.
func (b *backlog) took(n int, now time.Time, look func(time.Time) (waits int, trip time.Duration)) bool {
	if b.size >= receiveMax {
		return false
	}
	if b.span == 0 || now.Sub(b.since) > b.span {
		waits, trip := look(now)
		b.far = trip >= farTrip
		if trip == 0 {
			trip = unknownTrip
		}
		b.fresh, b.since, b.span = -n-waits, now, backlogTrips*trip
	}
	if b.fresh += n; b.fresh < b.size/2 || !b.far && b.all.Load()+int64(b.size) > b.most() {
		return false
	}
	more := min(b.size, receiveMax-b.size)
	b.all.Add(int64(more))
	b.size, b.span = b.size+more, 0
	return true
}

// most is what all may have together, for a stream on a short path to have more.
func (b *backlog) most() int64 {
	if b.size < backlogMessage {
		return 2 * backlogTotal
	}
	return backlogTotal
}

// waits is how much waits to be read, and the path's bare round trip.
func (c *stream) waits(now time.Time) (int, time.Duration) {
	n, _ := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	return n, c.flight.path.bare(now)
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
