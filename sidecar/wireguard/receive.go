package wireguard

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// message is what one read brought: datagrams of equal size from one sender, the last may be shorter.
type message struct {
	data []byte
	each int // size of a datagram; zero: all of data is one
	from *endpoint
}

// cut takes the next datagram off.
func (m *message) cut() []byte {
	n := len(m.data)
	if m.each > 0 {
		n = min(n, m.each)
	}
	d := m.data[:n:n]
	m.data = m.data[n:]
	return d
}

// receiver is what one reading goroutine works with.
type receiver struct {
	engine *Engine
	plain  [][]byte // of the run, from where the header was
	lent   []held   // of them, those that have waited
	nonce  nonce

	session *session // of the run
	account account  // of its peer
	share   *share   // of its peer; nil: there is no crowd, or it is its sources that share
	now     instant
	size    int // bytes on the wire
	valid   int // packets that authenticated, keepalives included
	data    int // those that are no keepalives, delivered or not

	src   netip.Addr // that was looked up last
	owner *peer

	hub     *hub      // nil: nothing is passed on
	tap     *onlooker // nil: nobody is shown packets
	transit transit

	socket int // which of the engine's it reads
	crowd  crowd
	expiry *time.Timer // of the sieve; nil: it was never set
	told   time.Time   // when a read that failed was last warned of
}

// readAgain is how long a reader waits after an error, so that one that lasts does not keep a CPU busy.
const readAgain = 10 * time.Millisecond

// tellAgain is how long a reader that goes on failing keeps quiet about it.
const tellAgain = time.Minute

// read reads one socket until it is closed.
func (e *Engine) read(which int, s *socket) {
	r := receiver{engine: e, plain: make([][]byte, 0, MaxPackets), socket: which}
	in := s.newInbox()
	for {
		messages, err := in.read()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			r.failed(err)
			time.Sleep(readAgain)
			continue
		}
		for i := range messages {
			r.take(&messages[i])
		}
		r.watch(s, in)
		if e.pause != nil {
			e.pause()
		}
	}
}

// failed tells of a read that failed. The socket goes on, but what the system lacks it may lack for a while.
func (r *receiver) failed(err error) {
	if now := time.Now(); now.Sub(r.told) >= tellAgain {
		r.told = now
		r.engine.log.Warn("read UDP socket", "error", err)
		return
	}
	r.engine.log.Debug("read UDP socket", "error", err)
}

// take works through a message.
func (r *receiver) take(m *message) {
	r.now, r.hub, r.tap = r.engine.now(), r.engine.hub.Load(), r.engine.tap.Load()
	for first := true; first || len(m.data) > 0; first = false {
		d := m.cut()
		kind := messageType(d)
		if kind == typeTransport && len(d) >= Overhead {
			r.transport(d, m.from)
			continue
		}
		if want := handshakeSize(kind); want == 0 || len(d) != want {
			r.engine.count.malformed.Add(1)
			r.crowd.strayed(len(d))
			continue
		}
		r.flush(m.from)
		r.engine.post(d, m.from)
	}
	r.flush(m.from)
}

func (r *receiver) transport(d []byte, from *endpoint) {
	receiver := binary.LittleEndian.Uint32(d[transReceiver:])
	if r.session == nil || r.session.local != receiver {
		r.flush(from)
		s := r.engine.index.lookup(receiver).session
		if s == nil || r.now.sub(s.created) >= rejectAfter {
			r.engine.count.noSession.Add(1)
			r.engine.stray(d, r.now, from)
			r.crowd.strayed(len(d))
			return
		}
		r.session, r.account, r.share = s, s.peer.account(r.now), nil
		if r.crowd.crowded(r.now) && !s.peer.carries.Load() {
			r.share = r.crowd.share(s.peer, r.socket)
		}
	}
	if r.refuses(len(d)) {
		return
	}
	plain, counter := r.session.open(d, &r.nonce)
	if plain == nil {
		r.engine.count.unauthentic.Add(1)
		r.crowd.strayed(len(d))
		return
	}
	s, where := r.session, straight
	s.mu.Lock()
	fresh := s.seen.ValidateCounter(counter, rejectAfterMessages)
	if fresh && r.hub == nil { // what is passed on is put in order where it ends
		where = s.see(counter, plain, r.now)
	}
	s.mu.Unlock()
	if !fresh {
		r.engine.count.replayed.Add(1)
		return
	}
	r.account.charge(len(d))
	if r.share != nil {
		r.crowd.charge(r.share, len(d))
	}
	r.valid++
	r.size += len(d)
	packet := r.inner(d, plain)
	if where == early && s.keep(counter, packet, r.now) {
		return
	}
	if packet != nil {
		r.plain = append(r.plain, packet)
	}
	if where == last {
		r.release(s)
	}
}

// watch looks whether there is a crowd, after the work of each read: what came meanwhile is in the socket.
func (r *receiver) watch(s *socket, in *inbox) {
	now := r.engine.now()
	if !r.crowd.arrive(now, in.lost(now), in.filled) && len(r.crowd.sieved) == 0 {
		return
	}
	r.crowd.filled(in.filled(), now)
	r.engine.crowded.Store(int64(r.crowd.until))
	if !r.crowd.begin(now) {
		return
	}
	if out, changed := r.crowd.resieve(r.socket); changed {
		r.sieve(s, out)
	}
}

// sieve has the system refuse some, for as long as it is said anew: who is refused all that wakes the reader could otherwise wait for ever.
func (r *receiver) sieve(s *socket, out []sieved) {
	if err := s.sieve(out); err != nil {
		r.engine.log.Debug("sieve not set", "error", err)
		r.crowd.unable = true // the reader refuses all by itself
		r.crowd.unsieve(r.socket)
		return
	}
	if r.expiry == nil {
		r.expiry = time.AfterFunc(sieveFor, func() { _ = s.sieve(nil) })
	}
	r.expiry.Reset(sieveFor)
}

// refuses says whether the run's peer has had enough, before anything is decrypted: that is what would keep the CPU from others.
func (r *receiver) refuses(size int) bool {
	switch {
	case r.share != nil && r.crowd.refuses(r.share):
		r.engine.count.overShare.Add(1)
	case r.account.refuses():
		r.engine.count.receiveLimit.Add(1)
		if r.share != nil {
			r.crowd.charge(r.share, size) // or a limit would hide from the crowd who fills the socket
		}
	default:
		return false
	}
	return true
}

// inner is the packet to deliver, from where the header was; nil: there is none.
func (r *receiver) inner(d, plain []byte) []byte {
	if len(plain) == 0 {
		return nil // a keepalive
	}
	r.data++
	n, src := packetSource(plain)
	if n == 0 {
		r.engine.count.malformed.Add(1)
		return nil
	}
	if m := r.session.peer.mapper.Load(); m != nil {
		var ok bool
		if src, ok = m.inbound(plain[:n]); !ok {
			r.engine.count.source.Add(1)
			return nil
		}
	}
	if src != r.src || r.owner == nil {
		r.src, r.owner = src, r.engine.route(src)
	}
	if r.owner != r.session.peer {
		r.engine.count.source.Add(1)
		return nil
	}
	if r.share == nil && r.crowd.crowded(r.now) && r.sourceRefused(src, len(d)) {
		r.engine.count.overShare.Add(1)
		return nil
	}
	if isICMP(plain) && r.owner.probing(r.now, plain[:n]) {
		return nil
	}
	if limit := r.owner.pathLimit(); limit != 0 && (r.hub != nil || limit < datapath.MinMTU) {
		clampSegments(plain[:n], limit)
	}
	if r.tap != nil {
		(*r.tap)(plain[:n])
	}
	if r.hub != nil && r.passOn(*r.hub, d, plain[:n], src) {
		return nil
	}
	return d[:HeaderSize+n]
}

// sourceRefused is what a peer that carries packets of many is asked once its packet is decrypted.
func (r *receiver) sourceRefused(src netip.Addr, size int) bool {
	if of := r.engine.standsFor.Load(); of != nil {
		if a := (*of)(src); a.IsValid() {
			src = a
		}
	}
	s := r.crowd.source(src)
	if r.crowd.refuses(s) {
		return true
	}
	r.crowd.charge(s, size)
	return false
}

// release has what waited for the last packet delivered behind it.
func (r *receiver) release(s *session) {
	s.mu.Lock()
	out, _ := s.order.release(r.now)
	s.mu.Unlock()
	for _, h := range out {
		if h.packet != nil {
			r.plain, r.lent = append(r.plain, *h.packet), append(r.lent, h)
		}
	}
}

// flush ends the run: it tells the peer and delivers the packets.
func (r *receiver) flush(from *endpoint) {
	s := r.session
	r.session, r.owner = nil, nil // what they say may change from message to message
	if s == nil || r.valid == 0 {
		return
	}
	p := s.peer
	if r.account.rate.bits != 0 {
		p.receives.spend(r.now, r.account.rate.cost(r.size))
	}
	p.rx.Add(uint64(r.size))
	p.move(from)
	p.received(r.now, r.data > 0) // refused or not: silence would make the peer think that we are gone
	if p.next.Load() == s {
		p.confirm(s, r.now)
	}
	// Section 6.2: who began a session renews it in time even if it only listens.
	if s.initiator && s == p.current.Load() && r.now.sub(s.created) > rejectAfter-keepaliveAfter-retryAfter {
		p.start(r.now)
	}
	if len(r.plain) > 0 {
		r.engine.deliver(r.plain, HeaderSize)
	}
	r.flushTransit()
	for _, h := range r.lent {
		s.give(h)
	}
	r.lent = r.lent[:0]
	clear(r.plain)
	r.plain, r.size, r.valid, r.data = r.plain[:0], 0, 0, 0
}

// packetSource returns the length and source of an IP packet that may be followed by padding; zero if it is none.
func packetSource(b []byte) (size int, src netip.Addr) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		size, src = int(binary.BigEndian.Uint16(b[2:])), netip.AddrFrom4([4]byte(b[12:16]))
		if size < 20 {
			return 0, src
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		size, src = int(binary.BigEndian.Uint16(b[4:]))+40, netip.AddrFrom16([16]byte(b[8:24]))
	}
	if size > len(b) {
		return 0, src
	}
	return size, src
}
