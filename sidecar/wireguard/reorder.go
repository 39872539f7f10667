package wireguard

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Some paths change the order of packets: radio links that repeat what was lost, links that are bundled. TCP takes what comes out of
// order for lost, and slows down. A session numbers its packets, so their order can be had back: where a path was seen to change the
// order within a flow, what comes early waits for what is late, a little longer than that has been late before. Elsewhere nothing
// waits, nor is anything remembered before the first number is missing: a loss looks the same at first, and senders with several CPUs
// number the packets of different flows out of turn.
const (
	watchFor  = 10 * time.Second // after the last sign of it, a path counts as one that keeps the order
	leastWait = time.Millisecond
	mostWait  = 20 * time.Millisecond // what is later than that is not waited for
	mostHeld  = 1024                  // packets of a session
	heldBytes = 2 << 20               // of an engine
	flowKinds = 256                   // flows are told apart by so many digests
	gapsKept  = 8
)

// place is what to do with a packet.
type place int

const (
	straight place = iota // deliver it
	last                  // deliver it, and what has waited for it
	early                 // hold it
)

// order puts a session's packets in the order of their numbers. Its owner locks.
type order struct {
	next  uint64 // the number to come
	flows *[flowKinds]uint64
	gaps  [gapsKept]gap // the latest that were passed over
	gap   int           // of them, the next to be overwritten
	watch instant       // until when the path counts as one that changes the order; never: it does not
	wait  time.Duration
	held  []held // by number
}

// gap is numbers that were missing when a later one was delivered.
type gap struct {
	from, to uint64 // to is not missing
	at       instant
}

// held is a packet that waits for earlier ones.
type held struct {
	number uint64
	at     instant
	packet *[]byte // nil: it was none to deliver
}

// see takes note of a packet and says what to do with it.
func (o *order) see(number uint64, plain []byte, now instant) place {
	if number == o.next && len(o.held) == 0 {
		o.next++
		if o.flows != nil {
			o.flows[flowDigest(plain)] = number
		}
		return straight
	}
	if o.flows == nil {
		o.flows = new([flowKinds]uint64)
	}
	latest := &o.flows[flowDigest(plain)]
	overtaken := *latest > number
	*latest = max(*latest, number)
	switch {
	case number == o.next:
		if overtaken {
			o.late(now.sub(o.held[0].at), now)
		}
		o.next++
		return last
	case number < o.next:
		if at := o.missed(number); overtaken && at != 0 {
			o.late(now.sub(at), now)
		}
		return straight
	case now < o.watch && len(o.held) < mostHeld:
		return early
	case len(o.held) > 0:
		return straight
	}
	o.pass(number, now)
	return straight
}

// late learns how long it takes until what is late comes.
func (o *order) late(by time.Duration, now instant) {
	if by > mostWait {
		return
	}
	o.watch = now.add(watchFor)
	o.wait = min(max(o.wait-o.wait/32, by+by/4, leastWait), mostWait)
}

// pass goes on with a number though earlier ones are missing.
func (o *order) pass(number uint64, now instant) {
	o.gaps[o.gap] = gap{o.next, number, now}
	o.gap = (o.gap + 1) % gapsKept
	o.next = number + 1
}

// missed says when a number was passed over; never: it was not, or that is long ago.
func (o *order) missed(number uint64) instant {
	for _, g := range o.gaps {
		if g.from <= number && number < g.to {
			return g.at
		}
	}
	return 0
}

// hold keeps an early packet; false if its turn has come meanwhile.
func (o *order) hold(h held) bool {
	if h.number <= o.next {
		o.next = max(o.next, h.number+1)
		return false
	}
	i, _ := slices.BinarySearchFunc(o.held, h.number, func(a held, n uint64) int { return int(int64(a.number - n)) })
	o.held = slices.Insert(o.held, i, h)
	return true
}

// release takes out what no longer waits: what is next, and what has waited long enough, with all before it. wait is how long until
// there is more; zero: nothing is held.
func (o *order) release(now instant) (out []held, wait time.Duration) {
	n := 0
	for ; n < len(o.held); n++ {
		h := o.held[n]
		if h.number > o.next {
			if wait = h.at.add(o.wait).sub(now); wait > 0 {
				break
			}
			o.pass(h.number, h.at)
			continue
		}
		o.next = h.number + 1
	}
	out = o.held[:n:n]
	if o.held = o.held[n:]; len(o.held) == 0 {
		o.held, wait = nil, 0
	}
	return out, wait
}

// flowDigest tells flows apart: by addresses and ports where there are any.
func flowDigest(b []byte) uint8 {
	var sum uint64
	switch {
	case len(b) >= 24 && b[0]>>4 == 4:
		sum = binary.BigEndian.Uint64(b[12:]) ^ uint64(binary.BigEndian.Uint32(b[20:]))<<16
	case len(b) >= 44 && b[0]>>4 == 6:
		sum = binary.BigEndian.Uint64(b[16:]) ^ binary.BigEndian.Uint64(b[32:]) ^ uint64(binary.BigEndian.Uint32(b[40:]))<<16
	}
	const golden = 0x9e3779b97f4a7c15
	return uint8(sum * golden >> 56)
}

// reorder is the part of a session that waits.
type reorder struct {
	order // guarded by the session's lock

	timer *time.Timer
	over  bool // nothing is delivered any more
}

// holders bounds and awaits what sessions of an engine hold.
type holders struct {
	bytes      atomic.Int64
	delivering sync.WaitGroup
}

var holdBuffers = sync.Pool{New: func() any { return new([]byte) }}

// keep holds an early packet, which is nil if there is nothing to deliver; false if it is not to wait.
func (s *session) keep(number uint64, packet []byte, now instant) bool {
	h, all := held{number: number, at: now}, &s.peer.engine.holders
	if all.bytes.Load() > heldBytes {
		return false
	}
	if packet != nil {
		h.packet = holdBuffers.Get().(*[]byte)
		*h.packet = append((*h.packet)[:0], packet...)
		all.bytes.Add(int64(cap(*h.packet)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reorder.over || !s.hold(h) {
		s.give(h)
		return false
	}
	if len(s.held) == 1 {
		s.arm(s.wait)
	}
	return true
}

func (s *session) give(h held) {
	if h.packet != nil {
		s.peer.engine.holders.bytes.Add(-int64(cap(*h.packet)))
		holdBuffers.Put(h.packet)
	}
}

func (s *session) arm(after time.Duration) {
	if s.timer == nil {
		s.timer = time.AfterFunc(after, s.overdue)
		return
	}
	s.timer.Reset(after)
}

// overdue delivers what has waited long enough. What a reader has at that moment may overtake it: something is lost anyway then.
func (s *session) overdue() {
	e := s.peer.engine
	s.mu.Lock()
	if s.reorder.over {
		s.mu.Unlock()
		return
	}
	e.holders.delivering.Add(1)
	defer e.holders.delivering.Done()
	out, wait := s.release(e.now())
	if wait > 0 {
		s.arm(wait)
	}
	s.mu.Unlock()
	packets := make([][]byte, 0, len(out))
	for _, h := range out {
		if h.packet != nil {
			packets = append(packets, *h.packet)
		}
	}
	for n := 0; n < len(packets); n += MaxPackets {
		e.deliver(packets[n:min(len(packets), n+MaxPackets)], HeaderSize)
	}
	for _, h := range out {
		s.give(h)
	}
}

// stopWaiting ends the waiting of a session that is over.
func (s *session) stopWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reorder.over = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.dropHeld()
}

// dropHeld drops what a session holds. The caller has its lock.
func (s *session) dropHeld() {
	for _, h := range s.held {
		s.give(h)
	}
	s.held = nil
}

// dropHeld drops what was held of a peer whose addresses change: it was looked at when it came.
func (p *peer) dropHeld() {
	for _, s := range []*session{p.current.Load(), p.prev.Load(), p.next.Load()} {
		if s != nil {
			s.mu.Lock()
			s.dropHeld()
			s.mu.Unlock()
		}
	}
}
