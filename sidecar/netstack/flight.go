package netstack

import (
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// What streams may have in flight.
//
// Congestion control fills whatever queue there is until it overflows. Between two pods that queue is the far end's UDP socket: what
// overflows it hits some streams and spares others, which then keep the path for themselves, and until then a request waits behind
// all of it. So the streams to one address together get what a fast path carries in one bare round trip, and take turns: a message is
// long, or it costs too much for each packet, so few of them are in flight at a time, in the order in which they were asked for.
// It bounds what a stream keeps in memory, too. On a slow or a lossy path congestion control stays below it, and it has no effect.
const (
	// flightRate is what a path may carry, as bytes a millisecond of the round trip: 4 Gbit/s.
	flightRate = 512 << 10
	// flightSpare is what of it is left free while requests pass, which wait behind all that is in flight: half of what is enough for a
	// short path. The last fifth of its throughput needs the other half.
	flightSpare = 256 << 10
	// requestAge is for how long a request counts.
	requestAge = 200 * time.Millisecond
	// flightLittle is what a stream may have in flight without a turn: a request waits for nobody's message. Where hundreds have messages it is
	// less, a part of littlesTotal and no less than littleLeast: what nobody takes stays in memory.
	flightLittle = 16 << 10
	littleLeast  = 4 << 10
	littlesTotal = 4 << 20
	// flightPackets is how many packets a message has at least, if there are so many bytes.
	flightPackets = 8
	// A message keeps its memory until it is acknowledged to its end. So where many streams hold some, each of their messages is at most an equal part
	// of what the path may have in flight and so much, or of a quarter of that if slow ones hold much, and holdersLeast in any case, as memory comes in powers of two.
	holdersSpare = 3 * flightRate
	holdersLeast = 8 << 10
	// Where more than holdersMany hold one that counts, and half of what the path may have in flight, none gets a second: who is not read is left with one.
	holdersMany = 32
	// flightMax is for the streams on a path of any length: it is memory.
	flightMax = 24 << 20
	// leastTrip is the least that gVisor measures.
	leastTrip = time.Millisecond
	// Every pathRenewal the streams keep to one message for pathBare, to see how long the round trip is without their queue.
	pathRenewal = time.Minute
	pathBare    = 100 * time.Millisecond
	// measureEvery is how often a stream asks TCP for them.
	measureEvery = 5 * time.Millisecond
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
	requested  time.Time     // when a request last passed
	turns
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

// total is what all may have in flight, bytes; zero or less: one message.
func (p *path) total(now time.Time) int {
	if p.next != 0 && now.Sub(p.renewed) < pathBare {
		return 0
	}
	n := int(min(int64(p.trip)*flightRate/int64(time.Millisecond), flightMax))
	if now.Sub(p.requested) < requestAge {
		n -= flightSpare
	}
	return n
}

// flight is a stream's part in it.
type flight struct {
	path *path
	turn

	// These are its writer's.
	asked    time.Time // when TCP was last asked
	window   int       // what congestion control allows, bytes
	little   bool      // it was given no more than a request to write
	reserved int       // what its next message may be; zero: nobody has asked
}

// message is how many of n bytes are best written at once. Whole packets, so that segments stay aligned.
func (c *stream) message(n int) int {
	window := c.flight.window / c.segment * c.segment
	return min(n, c.chunk, max(window, flightPackets*c.segment))
}

// limit is what the stream may have queued and in flight, bytes: twice the congestion window never holds it back.
func (c *stream) limit() int { return min(sendMax, max(2*c.flight.window, sendDefault)) }

// measure asks TCP for the round trip and the congestion window, every measureEvery.
func (c *stream) measure(now time.Time) {
	if now.Sub(c.flight.asked) < measureEvery {
		return
	}
	c.flight.asked = now
	var info tcpip.TCPInfoOption
	if c.ep.GetSockOpt(&info) == nil && info.RTT > 0 {
		c.flight.window = int(info.SndCwnd) * c.segment
		c.flight.path.measured(info.RTT, now)
	}
}
