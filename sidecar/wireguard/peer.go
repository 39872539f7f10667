package wireguard

import (
	"crypto/ecdh"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Bounds of what waits for a peer's session.
const (
	stagedBatches = 64
	stagedBytes   = 256 << 10
)

// endpoint is where a peer is, and by which of our addresses it reached us: answers leave from there. It never changes.
type endpoint struct {
	to    netip.AddrPort
	from  netip.Addr // invalid: the system chooses
	ifidx int32
}

// peer is one configured peer.
type peer struct {
	engine  *Engine
	key     key.Public
	tag     uint16                   // that our indices for it have
	at      atomic.Pointer[endpoint] // nil: unknown
	rx, tx  atomic.Uint64            // bytes on the wire
	outside atomic.Bool              // of the two kinds of peers that a hub passes packets between
	mapper  atomic.Pointer[mapper]   // nil: its addresses are what they are
	shaken  atomic.Int64             // wall clock of the last handshake, Unix nanoseconds; zero: never

	sessions
	events
	buckets
	shares   [2]share    // by socket; each is its reader's
	carries  atomic.Bool // packets of many: a gateway, not one of those that a gateway limits
	path     pathOf
	waiting  atomic.Bool // there is, or was just now, something staged
	flushing sync.Mutex

	mu        sync.Mutex // guards what follows
	gone      bool
	static    []byte // our static secret with it; nil: its key is of low order, and no handshake can be
	preshared [key.Size]byte
	signer    signer
	asking    asking
	heard     timestamp // of the last initiation: an older one is a replay
	heardAt   instant
	lastAsked instant
	recalled  instant
	staged    []*Batch
	timer     *time.Timer
	wake      atomic.Int64 // when the timer is set for; written under the lock
}

// events are the parts of a history that data packets make, without a lock.
type events struct {
	unanswered, owed, traffic atomic.Int64
	keepalive                 atomic.Int64 // nanoseconds
}

// asking is our side of a handshake under way.
type asking struct {
	noise
	ephemeral *ecdh.PrivateKey
	local     uint32
	sent      instant // zero: none is under way
	since     instant
	attempts  int
	held      instant
	jitter    time.Duration
}

func newPeer(e *Engine, k key.Public) *peer {
	p := &peer{engine: e, key: k, signer: signer{keys: newMACKeys(k)}}
	p.static, _ = shared(e.static, k[:])
	p.tag = e.index.mark.tag(k)
	p.timer = time.AfterFunc(time.Hour, p.tick)
	p.timer.Stop()
	return p
}

// sent records that something authenticated was sent.
func (p *peer) sent(now instant, data bool) {
	p.owed.Store(0)
	if data && p.unanswered.Load() == 0 && p.unanswered.CompareAndSwap(0, int64(now)) {
		p.alarm(now.add(keepaliveAfter + retryAfter))
	}
	p.passed(now)
}

// received records that something authenticated was received.
func (p *peer) received(now instant, data bool) {
	p.unanswered.Store(0)
	if data && p.owed.Load() == 0 && p.owed.CompareAndSwap(0, int64(now)) {
		p.alarm(now.add(keepaliveAfter))
	}
	p.passed(now)
}

func (p *peer) passed(now instant) {
	if d := p.keepalive.Load(); d > 0 {
		p.traffic.Store(int64(now))
		p.alarm(now.add(time.Duration(d)))
	}
}

// alarm makes sure that tick runs by then.
func (p *peer) alarm(at instant) {
	if p.awakeBy(at) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setAlarm(at)
}

func (p *peer) awakeBy(at instant) bool {
	w := instant(p.wake.Load())
	return w != 0 && w <= at
}

// setAlarm is alarm for those who hold the lock.
func (p *peer) setAlarm(at instant) {
	if p.gone || p.awakeBy(at) {
		return
	}
	p.wake.Store(int64(at))
	p.timer.Reset(max(0, at.sub(p.engine.now())))
}

func (p *peer) history() history {
	return history{
		asked: p.asking.sent, since: p.asking.since, attempts: p.asking.attempts, held: p.asking.held, jitter: p.asking.jitter,
		connected:  p.current.Load().usable(p.engine.now()),
		unanswered: instant(p.unanswered.Load()), owed: instant(p.owed.Load()), traffic: instant(p.traffic.Load()),
		keepalive: time.Duration(p.keepalive.Load()), derived: p.derived(), path: p.pathWake(),
	}
}

// derived is when the youngest session was made.
func (p *peer) derived() (at instant) {
	for _, s := range []*session{p.current.Load(), p.prev.Load(), p.next.Load()} {
		if s != nil {
			at = max(at, s.created)
		}
	}
	return at
}

// tick does what is due.
func (p *peer) tick() {
	now := p.engine.now()
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return
	}
	p.wake.Store(0)
	do, next := p.history().decide(now)
	var msg []byte
	switch {
	case do&giveUp != 0:
		p.unanswered.Store(0) // else the next tick, whatever it is for, would begin anew
		p.stopAsking()
		p.dropStaged()
	case do&ask != 0:
		p.clearSource()
		msg = p.ask(now)
	case do&begin != 0:
		p.unanswered.Store(0)
		p.clearSource()
		msg = p.begin(now)
	}
	if do&forget != 0 {
		p.forgetSessions()
	}
	if next != 0 {
		p.setAlarm(next)
	}
	p.mu.Unlock()
	p.sendHandshake(now, msg)
	if do&reassure != 0 {
		p.owed.Store(0)
		p.traffic.Store(int64(now))
		p.sendKeepalive()
	}
	if do&probe != 0 {
		p.lookIntoPath(now)
	}
}

// clearSource lets the system choose our address anew: the one that the peer reached us at may be why there is no answer.
func (p *peer) clearSource() {
	if at := p.at.Load(); at != nil && at.from.IsValid() {
		p.at.CompareAndSwap(at, &endpoint{to: at.to})
	}
}

// move records where an authenticated packet came from.
func (p *peer) move(to *endpoint) {
	if at := p.at.Load(); at == nil || at != to && *at != *to {
		p.at.Store(to)
		if at != nil && at.to != to.to {
			p.pathMoved()
		}
	}
}

// stage keeps a batch until there is a session. It is false if there is one by now, and the batch still the caller's.
func (p *peer) stage(b *Batch, now instant) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || b.keepalive && len(p.staged) > 0 { // a keepalive is only for the handshake that it makes necessary
		b.Free()
		return true
	}
	if p.current.Load().usable(now) {
		return false
	}
	p.staged = append(p.staged, b.own())
	p.waiting.Store(true)
	size := 0
	for i := len(p.staged) - 1; i > 0; i-- { // the newest stay
		if size += p.staged[i].size(); size > stagedBytes || len(p.staged)-i >= stagedBatches {
			for _, old := range p.staged[:i] {
				old.Free()
			}
			p.staged = append(p.staged[:0], p.staged[i:]...)
			break
		}
	}
	return true
}

// takeStaged returns what has waited. The caller holds the lock.
func (p *peer) takeStaged() []*Batch {
	out := p.staged
	p.staged = nil
	return out
}

// dropStaged gives up on what has waited. The caller holds the lock.
func (p *peer) dropStaged() {
	for _, b := range p.takeStaged() {
		b.Free()
	}
	p.waiting.Store(false)
}

func (p *peer) stopAsking() {
	if p.asking.sent != 0 {
		p.engine.index.drop(p.asking.local)
	}
	p.asking = asking{jitter: p.asking.jitter}
}

func (p *peer) forgetSessions() {
	for _, s := range p.sessions.clear() {
		p.engine.index.dropSession(s)
	}
}

// remove ends the peer.
func (p *peer) remove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	p.timer.Stop()
	p.forgetPath()
	p.stopAsking()
	p.dropStaged()
	p.forgetSessions()
	clear(p.preshared[:])
	clear(p.static)
}

func newJitter() time.Duration { return rand.N(retryAfter / 15) }
