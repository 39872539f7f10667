package wireguard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// floodGap is how soon after an initiation the next one of the same peer is looked at.
const floodGap = 20 * time.Millisecond

// start begins a handshake unless one is under way or the last was just now.
func (p *peer) start(now instant) {
	p.mu.Lock()
	msg := p.begin(now)
	p.mu.Unlock()
	p.sendHandshake(now, msg)
}

// begin is start for those who hold the lock. It returns the message to send, or nil.
func (p *peer) begin(now instant) []byte {
	if p.gone || p.asking.sent != 0 {
		return nil
	}
	if p.lastAsked != 0 && now.sub(p.lastAsked) < retryAfter {
		p.asking.held = p.lastAsked.add(retryAfter)
		p.setAlarm(p.asking.held)
		return nil
	}
	p.asking = asking{since: now}
	return p.ask(now)
}

// ask makes an initiation: message 1 of section 5.4.2.
func (p *peer) ask(now instant) []byte {
	if p.static == nil || p.at.Load() == nil {
		p.stopAsking() // it is the peer's to begin
		return nil
	}
	return p.initiation(now)
}

func (p *peer) initiation(now instant) []byte {
	a := &p.asking
	if a.sent != 0 {
		p.engine.index.drop(a.local)
	}
	a.noise, a.ephemeral = startNoise(p.key), newEphemeral()
	a.sent, a.attempts, a.held, a.jitter = now, a.attempts+1, 0, newJitter()
	a.local = p.engine.index.add(entry{peer: p})
	p.lastAsked = now
	toStatic, err := shared(a.ephemeral, p.key[:])
	if err != nil {
		p.stopAsking()
		return nil
	}
	msg := make([]byte, 8, initiationSize)
	binary.LittleEndian.PutUint32(msg, typeInitiation)
	binary.LittleEndian.PutUint32(msg[atIndex:], a.local)
	msg = append(msg, a.ephemeral.PublicKey().Bytes()...)
	a.mixEphemeral(msg[initEphemeral:])
	msg = a.seal(msg, a.mixKeyFor(toStatic), p.engine.self[:])
	stamp := newTimestamp(time.Now())
	msg = a.seal(msg, a.mixKeyFor(p.static), stamp[:])
	msg = msg[:initiationSize]
	p.signer.sign(msg, time.Now())
	p.setAlarm(now.add(p.history().retry()))
	return msg
}

// answer takes an initiation that names the peer, and returns the response: section 5.4.3. n is the handshake up to the
// initiator's static key. An error says why there is none.
func (p *peer) answer(n noise, msg []byte, now instant, from *endpoint) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || p.static == nil {
		return nil, errUnknownPeer
	}
	plain, err := n.open(n.mixKeyFor(p.static), msg[initTimestamp:initMACs])
	if err != nil {
		return nil, err
	}
	if stamp := timestamp(plain); bytes.Compare(stamp[:], p.heard[:]) <= 0 {
		return nil, errReplayed
	}
	if p.heardAt != 0 && now.sub(p.heardAt) < floodGap {
		return nil, errTooSoon
	}
	if !p.mayBegin(now) {
		return nil, errOverLimit
	}
	p.heard, p.heardAt = timestamp(plain), now
	remote := msg[initEphemeral:initStatic]
	ephemeral := newEphemeral()
	toEphemeral, err := shared(ephemeral, remote)
	if err != nil {
		return nil, err
	}
	toStatic, err := shared(ephemeral, p.key[:])
	if err != nil {
		return nil, err
	}
	s := &session{peer: p, created: now, remote: binary.LittleEndian.Uint32(msg[atIndex:])}
	s.local = p.engine.index.add(entry{peer: p}) // without the session, which has no keys yet
	out := make([]byte, respEphemeral, responseSize)
	binary.LittleEndian.PutUint32(out, typeResponse)
	binary.LittleEndian.PutUint32(out[atIndex:], s.local)
	binary.LittleEndian.PutUint32(out[respReceiver:], s.remote)
	out = append(out, ephemeral.PublicKey().Bytes()...)
	n.mixEphemeral(out[respEphemeral:])
	n.mixKey(toEphemeral)
	n.mixKey(toStatic)
	out = n.seal(out, n.mixPreshared(p.preshared[:]), nil)
	out = out[:responseSize]
	p.signer.sign(out, time.Now())
	theirs, ours := n.keys() // the initiator's direction first
	s.sends, s.receives = transportCipher(ours), transportCipher(theirs)
	p.engine.index.replace(s.local, entry{peer: p, session: s})
	p.adopt(s)
	p.move(from)
	return out, nil
}

// complete takes the response to our initiation.
func (p *peer) complete(msg []byte, now instant, from *endpoint) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := &p.asking
	if p.gone || a.sent == 0 || binary.LittleEndian.Uint32(msg[respReceiver:]) != a.local {
		return errReplayed
	}
	n, remote := a.noise, msg[respEphemeral:respEmpty]
	toEphemeral, err := shared(a.ephemeral, remote)
	if err != nil {
		return err
	}
	toStatic, err := shared(p.engine.static, remote)
	if err != nil {
		return err
	}
	n.mixEphemeral(remote)
	n.mixKey(toEphemeral)
	n.mixKey(toStatic)
	if _, err := n.open(n.mixPreshared(p.preshared[:]), msg[respEmpty:respMACs]); err != nil {
		return err
	}
	s := &session{peer: p, initiator: true, created: now, local: a.local, remote: binary.LittleEndian.Uint32(msg[atIndex:])}
	ours, theirs := n.keys()
	s.sends, s.receives = transportCipher(ours), transportCipher(theirs)
	p.engine.index.replace(a.local, entry{peer: p, session: s})
	*a = asking{}
	p.adopt(s)
	p.move(from)
	p.shaken.Store(time.Now().UnixNano())
	return nil
}

// adopt makes the session one of the peer's and forgets those that it replaces.
func (p *peer) adopt(s *session) {
	if !p.current.Load().usable(s.created) {
		p.pathBack(s.created)
	}
	for _, over := range p.sessions.install(s) {
		p.engine.index.dropSession(over)
	}
	p.setAlarm(s.created.add(forgetAfter))
}

// confirm is called when the peer has used the session that we answered to.
func (p *peer) confirm(s *session, now instant) {
	p.mu.Lock()
	if p.next.Load() != s {
		p.mu.Unlock()
		return
	}
	p.engine.index.dropSession(p.sessions.confirm())
	p.stopAsking()
	p.shaken.Store(time.Now().UnixNano())
	p.mu.Unlock()
	p.flush(now)
}

// mostRest is how long a worker rests at most after a message, while a socket overflows.
const mostRest = time.Millisecond

// letter is a handshake message as it arrived, or the beginning of a packet of no session.
type letter struct {
	text [initiationSize]byte
	size int
	from *endpoint
}

func (l *letter) bytes() []byte { return l.text[:l.size] }

// post hands a handshake message to a worker; one too many is lost, and will be asked again. Under load that is the reader's to decide, for
// next to nothing: a worker that is always busy keeps the reader of data from its CPU.
func (e *Engine) post(msg []byte, from *endpoint) {
	now := e.now()
	if len(e.letters) == cap(e.letters) || e.underLoad(now) && !e.senders.admits(now, from.to) {
		e.count.handshakesLost.Add(1)
		return
	}
	l := &letter{size: len(msg), from: from}
	copy(l.text[:], msg)
	select {
	case e.letters <- l:
	default:
		e.count.handshakesLost.Add(1)
	}
}

// work handles handshake messages until there are no more.
func (e *Engine) work() {
	defer e.workers.Done()
	for l := range e.letters {
		began := e.now()
		if err := e.handle(l); err != nil {
			e.refused(err)
			e.log.Debug("handshake message refused", "from", l.from.to.String(), "type", messageType(l.bytes()), "error", err)
		}
		if now := e.now(); now < instant(e.crowded.Load()) {
			time.Sleep(min(now.sub(began), mostRest)) // as long as it worked: on one CPU nobody reads meanwhile
		}
	}
}

func (e *Engine) refused(err error) {
	if errors.Is(err, errOverLimit) {
		e.count.handshakesLimit.Add(1)
		return
	}
	e.count.handshakesRefused.Add(1)
}

func (e *Engine) handle(l *letter) error {
	msg, now := l.bytes(), e.now()
	kind := messageType(msg)
	if kind == typeCookie {
		return e.handleCookie(msg)
	}
	if kind == typeTransport {
		e.recall(msg, now, l.from)
		return nil
	}
	if !e.checker.firstValid(msg) {
		return errWrongMAC
	}
	if e.underLoad(now) && !e.checker.secondValid(msg, l.from.to, time.Now()) {
		e.sendTo(l.from, e.checker.reply(msg, l.from.to, time.Now()))
		return nil
	}
	if e.underLoad(now) && !e.limiter().Allow(l.from.to.Addr()) {
		return errTooSoon
	}
	if kind == typeInitiation {
		return e.handleInitiation(msg, now, l.from)
	}
	return e.handleResponse(msg, now, l.from)
}

func (e *Engine) handleInitiation(msg []byte, now instant, from *endpoint) error {
	n := startNoise(e.self)
	remote := msg[initEphemeral:initStatic]
	n.mixEphemeral(remote)
	secret, err := shared(e.static, remote)
	if err != nil {
		return err
	}
	static, err := n.open(n.mixKeyFor(secret), msg[initStatic:initTimestamp])
	if err != nil {
		return err
	}
	p := e.peer(key.Public(static))
	if p == nil {
		return errUnknownPeer
	}
	out, err := p.answer(n, msg, now, from)
	if err != nil {
		return fmt.Errorf("peer %s: %w", p.key, err)
	}
	p.rx.Add(uint64(len(msg)))
	p.received(now, false)
	p.sendHandshake(now, out)
	return nil
}

func (e *Engine) handleResponse(msg []byte, now instant, from *endpoint) error {
	p := e.index.lookup(binary.LittleEndian.Uint32(msg[respReceiver:])).peer
	if p == nil {
		return errUnknownPeer
	}
	if err := p.complete(msg, now, from); err != nil {
		return fmt.Errorf("peer %s: %w", p.key, err)
	}
	p.rx.Add(uint64(len(msg)))
	p.received(now, false)
	if !p.flush(now) {
		p.sendKeepalive() // the peer waits for a first packet before it sends
	}
	return nil
}

func (e *Engine) handleCookie(msg []byte) error {
	p := e.index.lookup(binary.LittleEndian.Uint32(msg[atIndex:])).peer
	if p == nil {
		return errUnknownPeer
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.signer.accept(msg, time.Now()) {
		return errAuthentication
	}
	p.rx.Add(uint64(len(msg)))
	return nil
}

// underLoad says whether handshakes have piled up within the last second.
func (e *Engine) underLoad(now instant) bool {
	if len(e.letters) >= cap(e.letters)/8 {
		e.loaded.Store(int64(now.add(time.Second)))
		return true
	}
	return instant(e.loaded.Load()) > now
}

// sendHandshake sends a message of a handshake, if there is one, to where the peer is.
func (p *peer) sendHandshake(now instant, msg []byte) {
	if at := p.at.Load(); at != nil {
		p.sendHandshakeTo(at, now, msg)
	}
}

func (p *peer) sendHandshakeTo(at *endpoint, now instant, msg []byte) {
	if msg == nil {
		return
	}
	p.tx.Add(uint64(len(msg)))
	p.sent(now, false)
	p.emit(now, at, [][]byte{msg})
}

// addrPort is where the peer is, zero while that is unknown.
func (p *peer) addrPort() netip.AddrPort {
	if at := p.at.Load(); at != nil {
		return at.to
	}
	return netip.AddrPort{}
}
