package wireguard

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/pathmtu"
)

// What package pathmtu decides is done here: echo requests of an exact size to an inner address of the peer, which nearly everything answers
// that has a TCP/IP stack, and which only the peer can: the answer comes out of its session. Another engine answers them itself, in one
// piece: what is behind it may hold its answers to what it knows of the path, and cut them.

// pathOf is what is known of the path to a peer.
type pathOf struct {
	limit   atomic.Int32 // see pathLimit
	listens atomic.Bool  // answers may be under way
	watched struct{ any, large, stalled atomic.Int64 }

	answered bucket // of its probes
	telling  bucket // that packets of its are too big

	mu     sync.Mutex // guards what follows
	search pathmtu.Search
	target pathmtu.Aim // none: nothing is tried
	id     uint16
	token  uint64
	number uint16     // of the last probe
	probes [16]probed // the last ones, by number
	told   int        // the limit that was told of last
}

// paths is what an engine has of them.
type paths struct {
	own     atomic.Pointer[[]netip.Addr] // to send probes from; nil: none are sent
	ceiling atomic.Int32                 // the interface's MTU when that was set
	narrow  atomic.Int32                 // how many peers have a limit
	follow  func(map[netip.Prefix]int) error
	answers bucket // to all peers' probes
	limited bool   // what was told last has limits; guarded by changes
}

// probed is a probe that was sent.
type probed struct {
	number uint16
	size   int // zero: none, or it was answered
	sent   instant
}

// SetProbes sets the addresses that packets to find out about paths are sent from, the interface's own, and has all paths looked into anew
// where its MTU has changed. Without any nothing is tried, and every path is taken to carry the interface's MTU.
func (e *Engine) SetProbes(i datapath.Interface) {
	own := make([]netip.Addr, 0, len(i.Addresses))
	for _, p := range i.Addresses {
		own = append(own, p.Addr())
	}
	e.own.Store(&own)
	if e.ceiling.Swap(int32(i.MTU)) == int32(i.MTU) {
		return
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, p := range e.peers {
		p.pathMoved()
	}
}

// PathMTU is the longest packet, in bytes, that the path to an inner address takes, where that is known to be less than the interface's
// MTU; else zero. What is longer is sent in fragments.
func (e *Engine) PathMTU(to netip.Addr) int {
	if e.narrow.Load() == 0 {
		return 0
	}
	if p := e.route(to); p != nil {
		return p.pathLimit()
	}
	return 0
}

// pathLimit is the longest inner packet that the path takes, bytes; zero: nothing is known that is less than the interface's MTU.
func (p *peer) pathLimit() int { return int(p.path.limit.Load()) }

// aim sets whom probes are sent to: the address that was asked last, if it is still one of them.
func (p *peer) aim(is datapath.Peer) {
	o := &p.path
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.target.Set(is) {
		o.search.Anew()
	}
	o.settle(p.engine)
}

// watch looks at a batch before it is encrypted: whether data flows by which the path is to be looked into.
func (p *peer) watch(now instant, b *Batch) {
	w := &p.path.watched
	any, large, stalled := instant(w.any.Load()), instant(w.large.Load()), instant(w.stalled.Load())
	if now < any && now < large && now < stalled || b.keepalive || p.engine.own.Load() == nil {
		return
	}
	size, silence := b.longest(), time.Duration(0)
	if since := instant(p.unanswered.Load()); since != 0 {
		silence = now.sub(since)
	}
	if now < any && (size <= pathmtu.Floor || now < large && silence < pathmtu.StallAfter) {
		return
	}
	if isICMP(b.packets[0][HeaderSize:]) { // answers to probes, and pings, are nothing that a path is to be looked into for
		return
	}
	p.path.mu.Lock()
	due := !p.path.target.None() && p.path.search.Data(time.Duration(now), p.engine.mtu(), size, silence)
	p.path.settle(p.engine)
	p.path.mu.Unlock()
	if due {
		p.alarm(now)
	}
}

// refusedWhole takes in that the system does not send packets of that size in one piece.
func (p *peer) refusedWhole(now instant) {
	p.path.mu.Lock()
	due := !p.path.target.None() && p.engine.own.Load() != nil && p.path.search.Refused(time.Duration(now), p.engine.mtu())
	p.path.settle(p.engine)
	p.path.mu.Unlock()
	if due {
		p.alarm(now)
	}
}

// pathMoved has the path looked into anew. What is still answered by the old one says nothing of it.
func (p *peer) pathMoved() {
	p.path.mu.Lock()
	defer p.path.mu.Unlock()
	p.path.search.Moved()
	clear(p.path.probes[:])
	p.path.settle(p.engine)
}

// pathBack is told of a session with a peer that had none.
func (p *peer) pathBack(now instant) {
	p.path.mu.Lock()
	defer p.path.mu.Unlock()
	p.path.search.Back(time.Duration(now))
	p.path.settle(p.engine)
}

// settle makes what others look at without a lock what the search says. The caller holds the lock.
func (o *pathOf) settle(e *Engine) {
	w := o.search.Watch()
	if o.target.None() { // who sends to such a peer need not take the lock
		w = pathmtu.Unwatched()
	}
	o.watched.any.Store(int64(w.Any))
	o.watched.large.Store(int64(w.Large))
	o.watched.stalled.Store(int64(w.Stalled))
	is := o.search.Limit()
	switch was := int(o.limit.Swap(int32(is))); {
	case was == 0 && is != 0:
		e.narrow.Add(1)
	case was != 0 && is == 0:
		e.narrow.Add(-1)
	}
}

// pathWake is when lookIntoPath is to be called; never: there is nothing to do. Where an answer has ended a search there is something to tell.
func (p *peer) pathWake() instant {
	p.path.mu.Lock()
	defer p.path.mu.Unlock()
	if s := &p.path.search; s.Resting() && s.Limit() != p.path.told {
		return 1
	}
	return instant(p.path.search.Until())
}

// lookIntoPath sends the probes that are due and tells of what was found.
func (p *peer) lookIntoPath(now instant) {
	o := &p.path
	o.mu.Lock()
	sizes := o.search.Next(time.Duration(now))
	o.settle(p.engine)
	if o.search.Silent() {
		o.target.Other() // of a peer with several addresses, another may answer
	}
	limit, tell := o.search.News(o.told)
	if tell {
		o.told = limit
	}
	state, size := o.search.State(), o.search.Known()
	var out [len(sizes)]*Batch
	for i, n := range sizes {
		if n > 0 {
			out[i] = o.probe(now, n, *p.engine.own.Load())
		}
	}
	o.mu.Unlock()
	if tell {
		p.engine.log.Info("MTU of the path to a peer", "peer", p.key.String(), "bytes", size, "state", string(state))
		p.engine.tellLimits()
	}
	for _, b := range out {
		if b != nil {
			p.sendProbe(now, b)
		}
	}
	if next := p.pathWake(); next != 0 {
		p.alarm(next)
	}
}

// sendWhole sends encrypted packets in one piece each, or not at all.
func (e *Engine) sendWhole(to *endpoint, packets [][]byte) error {
	s, err := e.socketTo(to)
	for i := 0; err == nil && i < len(packets); i++ {
		err = s.sendWhole(to, packets[i:i+1])
	}
	return err
}

// probe makes an echo request of that size; nil where we have no address to send it from. The caller holds the lock.
func (o *pathOf) probe(now instant, size int, own []netip.Addr) *Batch {
	from, to, ok := o.target.Choose(own)
	if !ok {
		return nil
	}
	if o.id == 0 {
		o.id, o.token = 1+uint16(rand.N(1<<16-1)), rand.Uint64()
	}
	o.number++
	o.probes[int(o.number)%len(o.probes)] = probed{o.number, size, now}
	o.listens.Store(true)
	b := NewBatch(size, size)
	writeEcho(b.Next(size), from, to, o.id, o.number, o.token)
	return b
}

// sendProbe sends a probe, or the answer to one, if there is a session, in one piece or not at all. It waits for none: nothing begins because of a probe.
func (p *peer) sendProbe(now instant, b *Batch) {
	m, s, at := p.mapper.Load(), p.current.Load(), p.at.Load()
	if at == nil || !s.usable(now) || m != nil && !m.outbound(b) {
		b.Free()
		return
	}
	if !p.affords(now, b) {
		return
	}
	if !s.seal(b) {
		b.Free()
		return
	}
	p.tx.Add(uint64(b.size()))
	p.sent(now, true)
	if err := p.engine.sendWhole(at, b.packets); err != nil {
		p.engine.log.Debug("a probe was not sent", "peer", p.key.String(), "bytes", len(b.packets[0]), "error", err)
	}
	b.Free()
}

// tellLimits tells whom it concerns how long packets to the allowed IPs of peers may be.
func (e *Engine) tellLimits() {
	if e.paths.follow == nil {
		return
	}
	e.changes.Lock()
	defer e.changes.Unlock()
	e.tellLimitsLocked()
}

func (e *Engine) tellLimitsLocked() {
	if e.paths.follow == nil || e.closed {
		return
	}
	limits := make(map[netip.Prefix]int)
	for k, c := range e.registry {
		p := e.peer(k)
		if p == nil {
			continue
		}
		if n := p.pathLimit(); n != 0 {
			for _, ip := range c.AllowedIPs {
				limits[ip] = n
			}
		}
	}
	e.limited = len(limits) > 0
	if err := e.paths.follow(limits); err != nil {
		e.log.Warn("the MTU of routes could not be set", "error", err.Error())
	}
}

// pathStats is what is known of the path to a peer, for PeerStats.
func (p *peer) pathStats() (int, datapath.MTUState) {
	p.path.mu.Lock()
	defer p.path.mu.Unlock()
	s := &p.path.search
	if size := s.Limit(); size != 0 {
		return size, s.State()
	}
	return p.engine.mtu(), s.State()
}

// forgetPath takes the peer from those with a limit.
func (p *peer) forgetPath() {
	p.path.mu.Lock()
	defer p.path.mu.Unlock()
	p.path.target, p.path.search = pathmtu.Aim{}, pathmtu.Search{}
	p.path.settle(p.engine)
}
