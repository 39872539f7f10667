package wireguard

import (
	"errors"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

var errOverLimit = errors.New("more than a peer may begin in a minute")

// limits are what outside peers are held to. They are replaced, never changed.
type limits struct {
	bandwidth rate          // zero: not limited
	handshake time.Duration // how long one takes to be paid for; zero: not limited
}

// SetLimits changes what each outside peer may take; see datapath.Limiter; it cannot fail. A change forgives all debts: they are counted in time, and a
// moment at a low rate is long at a high one.
func (e *Engine) SetLimits(l datapath.Limits) error {
	next := limits{bandwidth: newRate(l.Bandwidth)}
	if l.Handshakes > 0 {
		next.handshake = time.Minute / time.Duration(l.Handshakes)
	}
	e.changes.Lock()
	defer e.changes.Unlock()
	switch was := e.limits.Load(); {
	case next == limits{}:
		e.limits.Store(nil)
		return nil
	case was != nil && *was == next:
		return nil
	}
	e.limits.Store(&next)
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, p := range e.peers {
		p.forgive()
	}
	return nil
}

// rate is bits per second, and for how long a bucket that was full lets more than that pass.
type rate struct {
	bits  int64
	burst time.Duration
}

func newRate(bits int64) rate {
	if bits <= 0 {
		return rate{}
	}
	r := rate{bits: bits}
	r.burst = max(datapath.BurstTime, r.cost(datapath.BurstBytes))
	return r
}

// cost is how long bytes take at the rate.
func (r rate) cost(bytes int) time.Duration {
	return time.Duration(int64(bytes) * 8 * int64(time.Second) / r.bits)
}

// bucket is one of tokens, counted as time: the instant at which all that has passed will have been paid for. It holds more the
// further that lies behind, up to a burst, and is in debt where it lies more than a burst ahead.
type bucket struct{ paid atomic.Int64 }

// room is how much may pass now; in debt it is not positive.
func (b *bucket) room(now instant, burst time.Duration) time.Duration {
	return burst - max(0, instant(b.paid.Load()).sub(now))
}

// spend takes what has passed, into debt if need be.
func (b *bucket) spend(now instant, cost time.Duration) {
	for {
		was := b.paid.Load()
		if b.paid.CompareAndSwap(was, int64(max(instant(was), now).add(cost))) {
			return
		}
	}
}

// buckets are a peer's.
type buckets struct{ receives, sends, handshakes bucket }

func (b *buckets) forgive() {
	for _, each := range []*bucket{&b.receives, &b.sends, &b.handshakes} {
		each.paid.Store(0)
	}
}

// held is what the peer is held to; nil: nothing.
func (p *peer) held() *limits {
	if l := p.engine.limits.Load(); l != nil && p.outside.Load() {
		return l
	}
	return nil
}

// mayBegin counts a handshake that the peer has begun and proved itself in; false if it is one too many.
func (p *peer) mayBegin(now instant) bool {
	l := p.held()
	if l == nil || l.handshake == 0 {
		return true
	}
	if p.handshakes.room(now, time.Minute) < l.handshake {
		return false
	}
	p.handshakes.spend(now, l.handshake)
	return true
}

// affords leaves of a batch what may be sent to the peer now, and counts that as sent; false, and the batch is gone, if nothing may. What
// is dropped is the end of it. A keepalive costs nothing, or a peer in debt would think that we are gone.
func (p *peer) affords(now instant, b *Batch) bool {
	l := p.held()
	if l == nil || l.bandwidth.bits == 0 || b.keepalive {
		return true
	}
	room, cost := p.sends.room(now, l.bandwidth.burst), time.Duration(0)
	n := 0
	for ; n < len(b.packets) && cost < room; n++ {
		cost += l.bandwidth.cost(WireSize(len(b.packets[n])-HeaderSize, b.mtu))
	}
	if n < len(b.packets) {
		p.engine.count.sendLimit.Add(uint64(len(b.packets) - n))
	}
	if n == 0 {
		b.Free()
		return false
	}
	clear(b.packets[n:])
	b.packets = b.packets[:n]
	p.sends.spend(now, cost)
	return true
}

// account is what a run of received packets may cost its peer.
type account struct {
	rate rate // zero: not limited
	left time.Duration
}

func (p *peer) account(now instant) account {
	l := p.held()
	if l == nil || l.bandwidth.bits == 0 {
		return account{}
	}
	return account{l.bandwidth, p.receives.room(now, l.bandwidth.burst)}
}

// refuses says whether the next packet is over the limit.
func (a *account) refuses() bool { return a.rate.bits != 0 && a.left <= 0 }

// charge takes a packet that authenticated. What did not may be anybody's, who could spend a peer's share otherwise.
func (a *account) charge(bytes int) {
	if a.rate.bits != 0 {
		a.left -= a.rate.cost(bytes)
	}
}

// senders bounds, under load, the handshake messages of one address and port that are looked at: a hundred a second, and fifty at once. Not of
// an address: who floods may share it with a peer, or pretend to. They share buckets by a hash that nobody else knows.
type senders struct {
	once    sync.Once
	seed    maphash.Seed
	buckets [4096]bucket
}

const (
	senderCost  = 10 * time.Millisecond
	senderBurst = 50 * senderCost
)

// bucket is that of a sender.
func (s *senders) bucket(from netip.AddrPort) *bucket {
	s.once.Do(func() { s.seed = maphash.MakeSeed() })
	if from.Addr().Is6() {
		p, _ := from.Addr().Prefix(64) // never fails; one host may have them all
		from = netip.AddrPortFrom(p.Addr(), from.Port())
	}
	return &s.buckets[maphash.Comparable(s.seed, from)%uint64(len(s.buckets))]
}

// admits counts one more message; false if it is one too many.
func (s *senders) admits(now instant, from netip.AddrPort) bool {
	b := s.bucket(from)
	if b.room(now, senderBurst) < senderCost {
		return false
	}
	b.spend(now, senderCost)
	return true
}
