package netstack

import (
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Turns.
//
// A message of more than flightLittle needs a turn: so many bytes of what the path may have in flight, in the order of asking. They are
// given back as they are acknowledged. gVisor tells of that when what a stream has queued falls below half of its send buffer, so the
// buffer's size is set to twice the level that is waited for. Who holds a turn and gets no further, because its reader does not read or
// it waits to send again, stops counting after turnAge: nobody waits for another's reader.
const (
	// turnAge is how long a turn counts without an acknowledgement, at least.
	turnAge = 20 * time.Millisecond
	// turnTail is for how long what is left over of a stream's messages is no request.
	turnTail = 100 * time.Millisecond
	// wholeMessage is a send buffer that takes any message whole.
	wholeMessage = 4 * sendMax
)

// turns are what the streams of a path hold, guarded by its lock. Under that nothing is called that could wait for an endpoint's lock.
type turns struct {
	held     int       // bytes, of all that count
	line     []*stream // who waits for a turn, first come first
	holders  []*stream // who holds some, whether it counts or not
	timer    *time.Timer
	sweeping bool // the timer is set
}

// turn is a stream's, guarded by the path's lock.
type turn struct {
	ready   chan struct{} // signalled when the writer should look again
	entry   waiter.Entry
	want    int       // of a message that waits in line, bytes
	granted int       // of one that is not written yet
	held    int       // no less than what is queued or in flight of those that were
	since   time.Time // of the last of them, or of its last acknowledgement
	stuck   bool      // what it holds does not count
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

// write is gVisor's Write, in turn.
func (c *stream) write(b tcpip.Payloader) (int64, tcpip.Error) {
	now := time.Now()
	c.measure(now)
	if !c.flight.path.begin(c, b.Len(), now) {
		return 0, &tcpip.ErrWouldBlock{}
	}
	n, err := c.ep.Write(b, tcpip.WriteOptions{})
	c.flight.path.end(c, int(n), now)
	return n, err
}

// begin says whether a stream may write a message of n bytes now; then end follows. If not, its writer is woken when it should ask again.
func (p *path) begin(c *stream, n int, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle(c, now)
	if t := &c.flight.turn; t.granted == 0 && !p.little(c, n, now) && !p.take(c, n, now) {
		p.settle(c, now) // little has set the buffer's size
		p.sweepSoon()
		return false
	}
	c.flight.writing = true
	c.ep.SocketOptions().SetSendBufferSize(wholeMessage, false)
	return true
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
	}
	p.settle(c, now)
	p.advance(now)
}

// little says whether a message needs no turn.
func (p *path) little(c *stream, n int, now time.Time) bool {
	if n > flightLittle || n > 0 && !c.below(flightLittle-n+1) {
		return false
	}
	if c.flight.little && now.Sub(c.flight.since) >= turnTail {
		p.requested = now
	}
	return true
}

// take has a stream wait for a turn, and says whether it has it already.
func (p *path) take(c *stream, n int, now time.Time) bool {
	t := &c.flight.turn
	if t.stuck || t.held+n > c.limit() {
		return false
	}
	if t.want == 0 {
		p.line = append(p.line, c)
	}
	t.want = n
	p.advance(now)
	return t.granted > 0
}

// advance grants turns to those who are first in line.
func (p *path) advance(now time.Time) {
	total := p.total(now)
	for len(p.line) > 0 {
		c := p.line[0]
		t := &c.flight.turn
		if p.held > 0 && p.held+t.want > total {
			return
		}
		p.line = slices.Delete(p.line, 0, 1)
		p.held += t.want
		t.granted, t.want = t.want, 0
		c.wake()
	}
}

// settle gives back what is acknowledged of what a stream holds, in steps of a quarter, and has gVisor tell of the next.
func (p *path) settle(c *stream, now time.Time) {
	t := &c.flight.turn
	for !t.writing && t.held > 0 {
		level := max(t.held-t.held/4, flightLittle)
		if !c.below(level) {
			c.ep.SocketOptions().SetSendBufferSize(int64(2*level), false)
			return
		}
		if level == flightLittle {
			level = 0
		}
		p.hold(c, level, now)
	}
}

// below says whether less than n bytes are queued or in flight, or nothing can be queued any more. It sets the buffer's size.
func (c *stream) below(n int) bool {
	c.ep.SocketOptions().SetSendBufferSize(int64(n), false)
	return c.ep.Readiness(waiter.WritableEvents) != 0
}

// hold has a stream hold n bytes, which count.
func (p *path) hold(c *stream, n int, now time.Time) {
	t := &c.flight.turn
	if !t.stuck {
		p.held -= t.held
	}
	switch {
	case n == 0:
		p.holders = slices.DeleteFunc(p.holders, func(h *stream) bool { return h == c })
	case t.held == 0:
		p.holders = append(p.holders, c)
	}
	p.held += n
	t.held, t.since, t.stuck = n, now, false
}

// sweepSoon has holders looked at as long as writers wait.
func (p *path) sweepSoon() {
	switch {
	case p.sweeping:
		return
	case p.timer == nil:
		p.timer = time.AfterFunc(turnAge, p.sweep)
	default:
		p.timer.Reset(turnAge)
	}
	p.sweeping = true
}

// sweep has those not count any more that get no further. Writers that wait look again, too: gVisor may have looked at a buffer's size
// before it was set, and not told of what is acknowledged.
func (p *path) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeping = false
	now := time.Now()
	for _, c := range p.holders {
		if t := &c.flight.turn; !t.stuck && now.Sub(t.since) >= max(turnAge, 4*p.trip) {
			p.held -= t.held
			t.stuck = true
			p.unline(c)
		}
		c.wake() // if it waits, it has this done again
	}
	p.advance(now)
	if len(p.line) > 0 {
		p.sweepSoon()
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
