package netstack

import "time"

// What streams may have waiting to be read.
//
// A sender that is not held to its share, as a kernel's TCP, fills every window that it is offered: what does not wait on the path waits here,
// in memory, and the requests of others behind it. gVisor's own moderation offers eight times of what was read in a round trip, with the round
// trip that the queue has made of it, and so is at its maximum after the first. Here a stream begins with little, less where there are many, and
// has twice as much each time that it reads a whole window within a few bare round trips: what it is offered is then a few times of what the path
// carries in one, and all streams together have that a few times.
const (
	backlogFirst = 256 << 10 // what a stream begins with, bytes; half of a buffer is its window
	backlogLeast = 32 << 10  // the same where there are many
	backlogTotal = 16 << 20  // what those that are open begin with, all together
	receiveMax   = 8 << 20

	// backlogTrips are the round trips in which a window is read if it is too small.
	backlogTrips = 4
	// unknownTrip is for a path of which nothing is known: it costs memory alone if it is less.
	unknownTrip = 100 * time.Millisecond
)

// backlog is a stream's, used by its one reader.
type backlog struct {
	size  int // of the buffer
	got   int // since then
	since time.Time
	span  time.Duration // how long it is counted; zero: not yet
}

// took counts what was read, and says whether the buffer is to be of another size. trip is asked for the bare round trip, zero if not known.
func (b *backlog) took(n int, now time.Time, trip func() time.Duration) bool {
	if b.size >= receiveMax {
		return false
	}
	if b.span == 0 || now.Sub(b.since) > b.span {
		t := trip()
		if t == 0 {
			t = unknownTrip
		}
		b.got, b.since, b.span = 0, now, backlogTrips*t
	}
	if b.got += n; b.got < b.size/2 {
		return false
	}
	b.size, b.span = min(2*b.size, receiveMax), 0
	return true
}

// bare is the bare round trip, zero if not known.
func (p *path) bare() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trip
}

// firstBacklog is what a stream begins with beside so many others, bytes.
func firstBacklog(open, mtu int) int {
	return min(max(backlogTotal/max(open, 1), backlogLeast, 4*mtu), backlogFirst)
}
