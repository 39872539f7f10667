package wireguard

import (
	"net/netip"
)

// NewBatch returns an empty Batch with room for at least one packet of the given size.
func (e *Engine) NewBatch(size int) *Batch { return NewBatch(size, e.mtu()) }

// Send encrypts the batch and sends it to the peer that may have the destination, on the caller's goroutine; it waits while the
// socket is full. Without a session it begins a handshake, and what fits waits for it. What belongs to nobody is dropped.
func (e *Engine) Send(to netip.Addr, b *Batch) {
	if p := e.route(to); p != nil {
		e.tapSent(b)
		p.send(b)
		return
	}
	e.count.noPeer.Add(uint64(b.Len()))
	b.Free()
}

// send owns the batch from here on.
func (p *peer) send(b *Batch) {
	if m := p.mapper.Load(); m != nil && !m.outbound(b) {
		p.engine.count.noPeer.Add(uint64(b.Len()))
		b.Free()
		return
	}
	now := p.engine.now()
	if len(b.packets) > 0 {
		p.watch(now, b)
		if n := p.pathLimit(); n != 0 {
			b.narrow(n)
		}
	}
	if !p.affords(now, b) {
		return
	}
	for {
		if p.waiting.Load() && p.current.Load().usable(now) {
			p.flush(now)
		}
		if p.trySend(now, b) {
			return
		}
		if p.stage(b, now) {
			p.start(now)
			return
		}
	}
}

// trySend sends the batch if there is a session to do it with.
func (p *peer) trySend(now instant, b *Batch) bool {
	s := p.current.Load()
	if !s.usable(now) || !s.seal(b) {
		return false
	}
	p.transmit(now, s, b)
	return true
}

// flush sends what has waited for a session, and says whether there was any. Whoever else wants to send meanwhile comes here too, and
// so behind it.
func (p *peer) flush(now instant) bool {
	p.flushing.Lock()
	defer p.flushing.Unlock()
	p.mu.Lock()
	staged := p.takeStaged()
	p.mu.Unlock()
	for i, b := range staged {
		if !p.trySend(now, b) { // the session is used up: the rest waits for the next
			p.mu.Lock()
			p.staged = append(staged[i:], p.staged...)
			p.mu.Unlock()
			return true
		}
	}
	p.waiting.Store(false)
	return len(staged) > 0
}

func (p *peer) transmit(now instant, s *session, b *Batch) {
	at, data := p.at.Load(), !b.keepalive
	if at == nil {
		b.Free()
		return
	}
	// Before the packets leave: their answer may be here before the call returns.
	p.tx.Add(uint64(b.size()))
	p.sent(now, data)
	if n := p.pathLimit(); n != 0 && b.exceeds(n) {
		p.emitInFragments(at, b.packets)
	} else {
		p.emit(now, at, b.packets)
	}
	b.Free()
	if s.stale(now) {
		p.start(now)
	}
}

// emit sends encrypted packets, or a handshake message, to where the peer is.
func (p *peer) emit(now instant, at *endpoint, packets [][]byte) {
	tooLong, err := p.engine.sendBatch(at, packets)
	if err != nil && at.from.IsValid() {
		// Our address that the peer reached us at may be gone. What of the packets has left is dropped there as a repetition.
		p.clearSource()
		tooLong, err = p.engine.sendBatch(&endpoint{to: at.to}, packets)
	}
	if err != nil {
		p.engine.sendFailed(p, err)
	}
	if tooLong {
		p.refusedWhole(now)
	}
}

// emitInFragments sends encrypted packets of which some are longer than the path takes.
func (p *peer) emitInFragments(at *endpoint, packets [][]byte) {
	err := p.engine.sendInFragments(at, packets)
	if err != nil && at.from.IsValid() { // as in emit
		p.clearSource()
		err = p.engine.sendInFragments(&endpoint{to: at.to}, packets)
	}
	if err != nil {
		p.engine.sendFailed(p, err)
	}
}

// sendInFragments sends encrypted packets by the message, in fragments where they are longer than the path takes.
func (e *Engine) sendInFragments(to *endpoint, packets [][]byte) error {
	s, err := e.socketTo(to)
	for err == nil && len(packets) > 0 {
		n := messageLength(packets)
		err = s.sendInFragments(to, packets[:n])
		packets = packets[n:]
	}
	return err
}

// sendKeepalive sends a packet with nothing in it.
func (p *peer) sendKeepalive() {
	b := p.engine.NewBatch(0)
	b.Next(0)
	b.keepalive = true
	p.send(b)
}

// messageLength is how many of the packets make the next message: equal ones, of which the last may be shorter, together no longer
// than a network device takes whole.
func messageLength(packets [][]byte) int {
	size := len(packets[0])
	most := min(len(packets), MaxPackets, max(1, MaxMessage/max(1, size)))
	for n := 1; n < most; n++ {
		switch next := len(packets[n]); {
		case next > size:
			return n
		case next < size:
			return n + 1
		}
	}
	return most
}

// MaxMessage is the most payload that a message of several packets may have. UDP itself would take 65,507 bytes; but a frame of
// 65,536 bytes or more, with Ethernet, IPv6 and UDP headers, is more than a network device takes whole, and the kernel would cut
// it up packet by packet before it leaves.
const MaxMessage = 65536 - 1 - 14 - 40 - 8
