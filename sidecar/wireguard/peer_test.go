package wireguard

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// TestEndpointComesLate has packets wait for a peer of which nobody has said where it is.
func TestEndpointComesLate(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	know(t, b, a.as())
	p := b.as()
	p.Endpoint = netip.AddrPort{}
	know(t, a, p)
	a.sendTo(b.addr, "waits")
	know(t, a, b.as())
	b.expect(t, "waits")
}

// TestKeepaliveOfLateEndpoint has nothing to send but keepalives.
func TestKeepaliveOfLateEndpoint(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	know(t, b, a.as())
	p := b.as()
	p.Keepalive, p.Endpoint = 25*time.Second, netip.AddrPort{}
	know(t, a, p)
	p.Endpoint = b.as().Endpoint
	know(t, a, p)
	eventually(t, "a handshake", func() bool { return !stats(t, b).LastHandshake.IsZero() })
}

// TestNewPeerIsWhole looks at a peer as soon as it can be found.
func TestNewPeerIsWhole(t *testing.T) {
	e := bare(nil)
	for range 200 {
		k := key.NewPrivate().Public()
		found := make(chan *peer)
		go func() {
			for e.peer(k) == nil {
			}
			p := e.peer(k)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.preshared == [key.Size]byte{} || p.at.Load() == nil {
				t.Error("an initiation that comes now would be answered without the preshared key")
			}
			found <- p
		}()
		p := datapath.Peer{PublicKey: k, PresharedKey: key.NewPreshared(), Endpoint: outside.to}
		if err := e.UpdatePeers([]datapath.Peer{p}, nil); err != nil {
			t.Fatal(err)
		}
		<-found
		if err := e.UpdatePeers(nil, []key.Public{k}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSessionsAreFoundWithKeys looks up every index while sessions are made: a datagram to any may come at any time.
func TestSessionsAreFoundWithKeys(t *testing.T) {
	h := newHandshake(t, key.Preshared{}).still()
	stop := make(chan struct{})
	var bare atomic.Int64
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			h.b.index.mu.RLock()
			for _, e := range h.b.index.entries {
				if e.session != nil && e.session.receives == nil {
					bare.Add(1)
				}
			}
			h.b.index.mu.RUnlock()
		}
	})
	for range 500 {
		h.response(t, h.initiation())
	}
	close(stop)
	looking.Wait()
	if n := bare.Load(); n != 0 {
		t.Errorf("%d times a datagram would have been a crash", n)
	}
}

// TestIndicesGo counts indices: two after a whole handshake, at most three sessions and a handshake after many, none when the peers
// are gone.
func TestIndicesGo(t *testing.T) {
	h := newHandshake(t, key.NewPreshared()).still()
	for i := range 20 {
		from := h
		if i%3 == 2 {
			from = handshake{h.b, h.a, h.ofB, h.ofA}
		}
		msg := from.response(t, from.initiation())
		if i%4 != 3 { // some answers are lost
			if err := from.a.handle(letterOf(msg, outside)); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range []*Engine{h.a, h.b} {
			if n := len(e.index.entries); n > 4 {
				t.Fatalf("%d indices after %d handshakes", n, i+1)
			}
		}
	}
	for e, p := range map[*Engine]*peer{h.a: h.ofB, h.b: h.ofA} {
		if err := e.UpdatePeers(nil, []key.Public{p.key}); err != nil {
			t.Fatal(err)
		}
		if n := len(e.index.entries); n != 0 {
			t.Errorf("%d indices of a peer that is gone", n)
		}
	}
}

// connect completes a handshake that h.a begins, and has h.b see it confirmed.
func (h handshake) connect(t testing.TB) {
	t.Helper()
	if err := h.a.handle(letterOf(h.response(t, h.initiation()), outside)); err != nil {
		t.Fatal(err)
	}
	h.deliver(t, nil)
}

// deliver has h.b receive a packet from h.a.
func (h handshake) deliver(t testing.TB, inner []byte) {
	t.Helper()
	b := NewBatch(len(inner), 1420)
	copy(b.Next(len(inner)), inner)
	if s := h.ofB.current.Load(); s == nil || !s.seal(b) {
		t.Fatal("no session")
	}
	(&receiver{engine: h.b}).take(&message{data: b.packets[0], from: outside})
}

func (e *Engine) sendOne(to netip.Addr, size int) {
	b := e.NewBatch(size)
	copy(b.Next(size), packet(innerA, to, strings.Repeat("x", size-20)))
	e.Send(to, b)
}

// pass lets time pass in a bubble, and all be done that is due by then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// standing is what a peer keeps.
type standing struct {
	staged, indices       int
	waiting, asking, keys bool
}

func (p *peer) standing() standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.engine.index.mu.RLock()
	defer p.engine.index.mu.RUnlock()
	return standing{len(p.staged), len(p.engine.index.entries), p.waiting.Load(), p.asking.sent != 0, p.derived() != 0}
}

// TestRefusedPacketsAreAnswered: a peer all of whose packets come from wrong addresses must not think that we are gone, and begin one
// handshake after the other.
func TestRefusedPacketsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(t, key.Preshared{})
		h.connect(t)
		sent := h.ofA.tx.Load()
		h.deliver(t, packet(innerB, innerA, "foreign"))
		if h.b.count.source.Load() != 1 {
			t.Fatal("not refused")
		}
		pass(keepaliveAfter + time.Second)
		if n := h.ofA.tx.Load() - sent; n != Overhead {
			t.Errorf("%d bytes were sent, want a keepalive", n)
		}
	})
}

// TestGivesUp asks a peer that never answers: for 90 seconds, and not again before there is something to send.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(t, key.Preshared{})
		h.a.sendOne(innerB, 100)
		p := h.ofB
		pass(giveUpAfter - 6*time.Second)
		if got, want := p.standing(), (standing{staged: 1, indices: 1, waiting: true, asking: true}); got != want {
			t.Fatalf("while asking: %+v, want %+v", got, want)
		}
		pass(12 * time.Second)
		if got := p.standing(); got != (standing{}) {
			t.Errorf("left of a handshake that was given up: %+v", got)
		}
		sent := p.tx.Load()
		pass(time.Hour)
		if p.tx.Load() != sent {
			t.Error("still asking")
		}
		h.a.sendOne(innerB, 100)
		if p.tx.Load() == sent {
			t.Error("not asking again")
		}
		p.remove()
	})
}

// TestSilentPeer sends for a while to a peer that has fallen silent. Once that is given up, what was sent meanwhile must not begin a
// handshake when the keys are forgotten.
func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(t, key.Preshared{})
		h.connect(t)
		p := h.ofB
		for range 5 {
			h.a.sendOne(innerB, 100)
			pass(5 * time.Second)
		}
		if !p.standing().asking {
			t.Fatal("not asking after 25 seconds of silence")
		}
		pass(giveUpAfter)
		if p.standing().asking {
			t.Fatal("not given up")
		}
		sent := p.tx.Load()
		pass(forgetAfter)
		if n := p.tx.Load() - sent; n != 0 {
			t.Errorf("%d bytes were sent with nothing to send", n)
		}
		if got := p.standing(); got != (standing{}) {
			t.Errorf("left after all that time: %+v", got)
		}
	})
}

// TestLateConfirmation lets the first packet of a session come late: what is sent then is sent now, not when the session was made.
func TestLateConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(t, key.Preshared{})
		if err := h.a.handle(letterOf(h.response(t, h.initiation()), outside)); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		h.b.sendOne(innerA, 100) // waits
		h.deliver(t, packet(innerA, innerB, "first"))
		if at := instant(h.ofA.unanswered.Load()); at != h.b.now() {
			t.Errorf("sent %s ago", h.b.now().sub(at))
		}
		h.ofA.remove()
		h.ofB.remove()
	})
}

// TestKeepalivesDoNotPileUp asks in vain, with keepalives more often than that.
func TestKeepalivesDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshake(t, key.Preshared{})
		h.ofB.keepalive.Store(int64(time.Second))
		h.ofB.sendKeepalive()
		pass(time.Minute)
		if n := h.ofB.standing().staged; n != 1 {
			t.Errorf("%d keepalives wait", n)
		}
		h.ofB.remove()
	})
}

// TestStagedMemory bounds what waits by the memory that it takes, not by how small the packets are.
func TestStagedMemory(t *testing.T) {
	h := newHandshake(t, key.Preshared{})
	defer h.ofB.remove()
	for _, size := range []int{40, 1420, 9000} {
		for range 3 * stagedBatches {
			h.a.sendOne(innerB, size)
			slab := make([]byte, 64+size+64)
			copy(slab[64:], packet(innerA, innerB, strings.Repeat("y", size-20)))
			b := h.a.Borrow()
			b.Add(slab, 64, 64+size)
			h.a.Send(innerB, b)
			wide := h.a.NewBatch(largeBatch / 2)
			copy(wide.Next(size), slab[64:64+size])
			h.a.Send(innerB, wide)
		}
		room, packets := 0, 0
		for _, b := range h.ofB.staged {
			room += cap(b.room)
			packets += b.size()
		}
		if most := 2*stagedBytes + largeBatch; room > most || packets == 0 {
			t.Errorf("packets of %d bytes: %d bytes of them take %d, want at most %d", size, packets, room, most)
		}
	}
}
