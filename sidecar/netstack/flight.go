package netstack

import (
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What streams may have in flight.
//
// Congestion control fills whatever queue there is until it overflows. Between two pods that queue is the far end's UDP socket: what
// overflows it hits some streams and spares others, which then keep the path for themselves, and until then a request waits behind
// all of it. So the streams to one address together get what a fast path carries in one bare round trip, and those that use up their
// share get equal ones. It bounds what a stream keeps in memory, too. On a slow or a lossy path congestion control stays below it,
// and it has no effect.
const (
	// flightRate is what a path may carry, as bytes a millisecond of the round trip: 4 Gbit/s.
	flightRate = 512 << 10
	// flightMin is what a stream may always have in flight before it waits for an acknowledgement. It is well beyond what a receiver
	// leaves unacknowledged for a while.
	flightMin = 16 << 10
	// flightPackets is how many packets a write has at least, if there are so many bytes: a message of fewer costs too much each.
	flightPackets = 8
	// flightMax is for the streams on a path of any length: it is memory.
	flightMax = 24 << 20
	// flightAge is how long a stream counts after it has used up its share.
	flightAge = 20 * time.Millisecond
	// leastTrip is the least that gVisor measures.
	leastTrip = time.Millisecond
	// Every pathRenewal the streams keep to their least for pathBare, to see how long the round trip is without their queue.
	pathRenewal = time.Minute
	pathBare    = 100 * time.Millisecond
)

// paths are a Stack's, by inner address. One is kept as long as it has streams.
type paths struct {
	mu sync.Mutex
	m  map[netip.Addr]*path
}

// path is what the streams to one address share.
type path struct {
	of    *paths
	to    netip.Addr
	users int // guarded by of.mu

	mu         sync.Mutex
	trip       time.Duration // the bare round trip; zero: not known
	renewed    time.Time     // since when it is measured anew
	measuredAt time.Time     // last of all
	next       time.Duration // the shortest since then
	began      time.Time     // the first period; each is flightAge long. Not the clock's, which may be set back
	number     int64         // of the current period, from 1 on
	now        int           // streams that have waited in it
	before     int           // and in the one before
}

// join returns the path to an address, for a stream that leaves it again.
func (ps *paths) join(to netip.Addr) *path {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.m[to]
	if p == nil {
		p = &path{of: ps, to: to}
		if ps.m == nil {
			ps.m = map[netip.Addr]*path{}
		}
		ps.m[to] = p
	}
	p.users++
	return p
}

func (p *path) leave() {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(p.of.m, p.to)
	}
}

// measured takes in a round trip.
func (p *path) measured(trip time.Duration, now time.Time) {
	trip = max(trip, leastTrip)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trip == 0 {
		p.trip, p.renewed = trip, now
	}
	p.measuredAt = now
	p.trip = min(p.trip, trip)
	switch since := now.Sub(p.renewed); {
	case since >= pathRenewal:
		p.renewed, p.next = now, trip
	case p.next != 0 && since >= pathBare:
		p.trip, p.next = p.next, 0
	case p.next != 0:
		p.next = min(p.next, trip)
	}
}

// share is what each may have in flight of those that use up their share. The stream that asks was last counted in the period
// *counted; zero: in none.
func (p *path) share(counted *int64, now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began.IsZero() {
		p.began = now
	}
	switch number := 1 + int64(now.Sub(p.began)/flightAge); {
	case number == p.number+1:
		p.number, p.before, p.now = number, p.now, 0
	case number > p.number:
		p.number, p.before, p.now = number, 0, 0
	}
	if *counted != p.number {
		*counted = p.number
		p.now++
	}
	if p.next != 0 {
		return flightMin
	}
	total := min(int64(p.trip)*flightRate/int64(time.Millisecond), flightMax)
	return int(total) / max(p.now, p.before)
}

// flight is a stream's part in it, used by its one writer.
type flight struct {
	path    *path
	counted int64 // period
	asked   time.Time
	window  int // what congestion control allows, bytes
	share   int
	size    int // it may begin a write while it has less than this in flight
	chunk   int // of one write, at most
}

// write is gVisor's Write held to the stream's share: what is begun below it is taken whole, so that segments stay aligned.
func (c *stream) write(p tcpip.Payloader) (int64, tcpip.Error) {
	o := c.ep.SocketOptions()
	o.SetSendBufferSize(int64(c.flight.size), false)
	if c.ep.Readiness(waiter.WritableEvents) == 0 {
		c.share(time.Now())
		o.SetSendBufferSize(int64(c.flight.size), false)
		if c.ep.Readiness(waiter.WritableEvents) == 0 {
			return 0, &tcpip.ErrWouldBlock{}
		}
	}
	o.SetSendBufferSize(int64(c.flight.size+c.flight.chunk), false)
	defer o.SetSendBufferSize(int64(c.flight.size), false)
	return c.ep.Write(p, tcpip.WriteOptions{})
}

// share finds the stream's share anew.
func (c *stream) share(now time.Time) {
	f := &c.flight
	if now.Sub(f.asked) >= flightAge/4 {
		f.asked = now
		c.measure(now)
	}
	// Twice the congestion window never holds it back. The share grows step by step: others that begin at the same time are not
	// counted yet.
	share := min(f.path.share(&f.counted, now), f.share+f.share/2, sendMax, max(2*f.window, sendDefault))
	f.share = max(share, flightMin)
	f.chunk = min(max(f.share/c.segment, flightPackets)*c.segment, c.chunk)
	f.size = max(f.share-f.chunk, flightMin)
}

// measure asks TCP for the round trip and the congestion window.
func (c *stream) measure(now time.Time) {
	var info tcpip.TCPInfoOption
	if c.ep.GetSockOpt(&info) == nil && info.RTT > 0 {
		c.flight.window = int(info.SndCwnd) * c.segment
		c.flight.path.measured(info.RTT, now)
	}
}
