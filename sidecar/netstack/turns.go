package netstack

import (
	"bytes"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Turns.
//
// A message that is not little (littles) needs a turn: so many bytes of what the path may have in flight, in the order of asking. They are
// given back as they are acknowledged. gVisor tells of that when what a stream has queued falls below half of its send buffer, so the
// buffer's size is set to twice the level that is waited for. A stream is slow that has less than it holds acknowledged within turnAge, because its
// reader does not keep up or it waits to send again. What it holds then does not count until half of that is left, so that nobody waits for
// another's reader, and it gets no more meanwhile. A stream that is closed holds nothing, whatever it still sends.
const (
	// turnAge is how long a turn counts, at least, for a stream that is slow.
	turnAge = 10 * time.Millisecond
	// turnTail is for how long what is left over of a stream's messages is no request.
	turnTail = 100 * time.Millisecond
	// wholeMessage is a send buffer that takes any message whole.
	wholeMessage = 4 * sendMax
)

// turns are what the streams of a path hold, guarded by its lock. Under that nothing is called that could wait for an endpoint's lock.
type turns struct {
	held    int       // bytes, of all that count
	idle    int       // bytes, of those that are slow
	slowly  int       // how many are
	line    []*stream // who waits for a turn, first come first
	holders []*stream // who holds some, whether it counts or not
	timer   *time.Timer
	pause   time.Duration // until the sweep; zero: there is none
}

// turn is a stream's, guarded by the path's lock.
type turn struct {
	ready   chan struct{} // signalled when the writer should look again
	entry   waiter.Entry
	want    int       // of a message that waits in line, bytes
	granted int       // of one that is not written yet
	held    int       // no less than what is queued or in flight of those that were
	since   time.Time // it is judged by what has been acknowledged since
	drained int       // bytes
	slow    int       // what it held when it was found to be slow; zero: it is not, and what it holds counts
	wrote   time.Time // the last of them
	writing bool      // the buffer's size is the writer's to set
}

// NotifyEvent is called by gVisor when what is queued has fallen below a level, or the connection has ended; with its locks.
func (c *stream) NotifyEvent(waiter.EventMask) {
	p, now := c.flight.path, time.Now()
	p.mu.Lock()
	p.settle(c, now)
	p.advance(now)
	p.mu.Unlock()
	c.wake()
}

func (c *stream) wake() {
	select {
	case c.flight.ready <- struct{}{}:
	default:
	}
}

// write is gVisor's Write, in turn: of all of b or of what its turn is for. The reader is there to be used.
func (c *stream) write(b []byte, r *bytes.Reader) (int64, tcpip.Error) {
	now := time.Now()
	c.measure(now)
	n, ok := c.flight.path.begin(c, len(b), now)
	if !ok {
		return 0, &tcpip.ErrWouldBlock{}
	}
	r.Reset(b[:n])
	written, err := c.ep.Write(r, tcpip.WriteOptions{})
	c.flight.path.end(c, int(written), now)
	return written, err
}

// reserve says whether a stream may write now, and how much of a message of n bytes. If not, its writer is woken when it should ask again.
func (p *path) reserve(c *stream, n int, now time.Time) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.may(c, n, now)
}

// begin does, too. If it may, end follows.
func (p *path) begin(c *stream, n int, now time.Time) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, ok := p.may(c, n, now)
	if ok {
		c.flight.writing = true
		c.ep.SocketOptions().SetSendBufferSize(wholeMessage, false)
	}
	return n, ok
}

func (p *path) may(c *stream, n int, now time.Time) (int, bool) {
	p.settle(c, now)
	t := &c.flight.turn
	if t.granted == 0 && !p.little(c, n, now) && !p.take(c, n, now) && !c.ended() {
		held := t.held
		p.settle(c, now) // the others have set the buffer's size, and may have kept gVisor from telling
		if t.held < held {
			c.wake()
		}
		p.advance(now)
		if p.pause != turnAge {
			p.sweepAfter(turnAge)
		}
		return 0, false
	}
	p.unline(c) // by now it may need no turn
	if t.granted > 0 {
		n = min(n, t.granted)
	}
	return n, true
}

// end takes in how much was written.
func (p *path) end(c *stream, n int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &c.flight.turn
	t.writing = false
	if t.granted > 0 {
		p.held -= t.granted
		t.granted = 0
		p.hold(c, t.held+n, now)
		t.wrote = now
	}
	p.settle(c, now)
	p.advance(now)
}

// little says whether a message needs no turn. What a slow stream holds comes first in any case.
func (p *path) little(c *stream, n int, now time.Time) bool {
	if n > flightLittle || n > 0 && !c.below(flightLittle-n+1) {
		return false
	}
	if n == 0 {
		return true
	}
	if c.flight.slow > 0 {
		return false
	}
	if c.flight.little && now.Sub(c.flight.wrote) >= turnTail {
		p.requested = now
	}
	little := p.littles()
	return n <= little && (little == flightLittle || c.below(little-n+1))
}

// littles is what a stream may have in flight without a turn, bytes.
func (p *path) littles() int {
	return min(max(littlesTotal/(len(p.holders)+len(p.line)+1), littleLeast), flightLittle)
}

// take has a stream wait for a turn, and says whether it has it already.
func (p *path) take(c *stream, n int, now time.Time) bool {
	t := &c.flight.turn
	if t.slow > 0 || t.held+n > c.limit() || t.held > 0 && (p.held+p.idle+n > flightMax || p.busy(c, n, now)) {
		return false
	}
	if t.want == 0 {
		p.line = append(p.line, c)
	}
	t.want = n
	p.advance(now)
	return t.granted > 0
}

// busy says whether there is enough under way without a second message of anybody's.
func (p *path) busy(c *stream, n int, now time.Time) bool {
	total := p.total(now)
	return len(p.holders)-p.slowly > holdersMany && p.held+min(n, p.longest(c, total)) > total/2
}

// advance grants turns to those who are first in line.
func (p *path) advance(now time.Time) {
	total := p.total(now)
	for len(p.line) > 0 {
		c := p.line[0]
		t := &c.flight.turn
		n := min(t.want, p.longest(c, total))
		if p.held > 0 && p.held+n > total {
			return
		}
		p.line = slices.Delete(p.line, 0, 1)
		p.held += n
		t.granted, t.want = n, 0
		c.wake()
	}
}

// longest is how long a message in turn may be, bytes, where total is what all may have in flight.
func (p *path) longest(c *stream, total int) int {
	all, holders := min(max(total, flightRate)+holdersSpare, flightMax), len(p.holders)+1
	part := max((all-p.idle)/max(holders-p.slowly, 1), all/4/holders)
	return max(part, holdersLeast, c.segment) / c.segment * c.segment
}

// settle gives back what is acknowledged of what a stream holds, in steps of a quarter, and has gVisor tell of the next.
func (p *path) settle(c *stream, now time.Time) {
	t := &c.flight.turn
	for !t.writing && t.held > 0 {
		little := p.littles()
		level := max(t.held-t.held/4, little)
		if !c.below(level) {
			c.ep.SocketOptions().SetSendBufferSize(int64(2*level), false)
			return
		}
		if level == little {
			level = 0
		}
		p.hold(c, level, now)
	}
}

// below says whether less than n bytes are queued or in flight, or nothing can be queued any more. It sets the buffer's size.
func (c *stream) below(n int) bool {
	c.ep.SocketOptions().SetSendBufferSize(int64(n), false)
	return c.ep.Readiness(waiter.WritableEvents)&waiter.WritableEvents != 0 // it says unasked that the peer has closed its direction
}

// ended says whether nothing can be written any more. It sets the buffer's size.
func (c *stream) ended() bool { return c.below(0) }

// hold has a stream hold n bytes.
func (p *path) hold(c *stream, n int, now time.Time) {
	t := &c.flight.turn
	switch {
	case n == 0:
		p.holders = slices.DeleteFunc(p.holders, func(h *stream) bool { return h == c })
	case t.held == 0:
		p.holders = append(p.holders, c)
		t.since, t.drained = now, 0
	}
	if t.slow > 0 {
		p.idle += n - t.held
	} else {
		p.held += n - t.held
	}
	t.drained += max(0, t.held-n)
	t.held = n
	if n <= t.slow/2 {
		p.count(t, now)
	}
}

// count has what a slow stream holds count again.
func (p *path) count(t *turn, now time.Time) {
	if t.slow > 0 {
		p.idle -= t.held
		p.held += t.held
		p.slowly--
	}
	t.slow, t.since, t.drained = 0, now, 0
}

// judge has what a stream holds not count while it is slow.
func (p *path) judge(c *stream, now time.Time) {
	t := &c.flight.turn
	if t.held == 0 || t.slow > 0 || now.Sub(t.since) < max(turnAge, 4*p.trip) {
		return
	}
	if t.drained < t.held {
		p.held -= t.held
		p.idle += t.held
		p.slowly++
		t.slow = t.held
		p.unline(c)
	}
	t.since, t.drained = now, 0
}

// sweepAfter has holders looked at after a while, and from then on as long as there are any.
func (p *path) sweepAfter(pause time.Duration) {
	p.pause = pause
	if p.timer == nil {
		p.timer = time.AfterFunc(pause, p.sweep)
		return
	}
	p.timer.Reset(pause)
}

// sweep finds who is slow, and what is acknowledged and gVisor has not told of: it may have looked at a buffer's size before that was set.
// Where nobody gets any further it looks less and less often.
func (p *path) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, further := time.Now(), len(p.line) > 0
	for _, c := range slices.Backward(p.holders) { // settle takes out the one that it is given
		before := c.flight.held
		p.settle(c, now)
		p.judge(c, now)
		if c.flight.held < before {
			further = true
			c.wake()
		}
	}
	p.advance(now)
	switch {
	case len(p.holders) == 0 && len(p.line) == 0:
		p.pause = 0
	case further:
		p.sweepAfter(turnAge)
	default:
		p.sweepAfter(min(max(2*p.pause, turnAge), time.Second)) // one that had been set before may find none
	}
}

// quit takes a writer that waits no longer out of the line.
func (p *path) quit(c *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unline(c)
	p.held -= c.flight.granted
	c.flight.granted = 0
	p.advance(time.Now())
}

func (p *path) unline(c *stream) {
	if c.flight.want > 0 {
		p.line = slices.DeleteFunc(p.line, func(w *stream) bool { return w == c })
		c.flight.want = 0
	}
}

// release takes all from a stream that has ended.
func (p *path) release(c *stream) {
	p.quit(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.hold(c, 0, now)
	p.advance(now)
}
