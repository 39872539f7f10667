package wireguard

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

func TestPacketsOfEverySize(t *testing.T) {
	a, b := pair(t)
	for n := 0; n <= 1400; n += 7 {
		p := strings.Repeat("x", n)
		a.sendTo(b.addr, p)
		b.expect(t, p)
	}
	// A message of many, the last one shorter, and then unequal ones.
	many := make([]string, 45)
	for i := range many {
		many[i] = strings.Repeat(string(rune('a'+i%26)), 1300)
	}
	many[44] = "short"
	for _, payloads := range [][]string{many, {"one", strings.Repeat("y", 900), "three"}} {
		a.sendTo(b.addr, payloads...)
		for _, p := range payloads {
			b.expect(t, p)
		}
	}
}

// TestBothBegin has both ends begin a handshake at once, again and again: each must come through without waiting for a retry.
func TestBothBegin(t *testing.T) {
	for range 20 {
		a, b := pair(t)
		go a.sendTo(b.addr, "from a")
		b.sendTo(a.addr, "from b")
		a.expect(t, "from b")
		b.expect(t, "from a")
		a.sendTo(b.addr, "again")
		b.expect(t, "again")
		b.sendTo(a.addr, "again")
		a.expect(t, "again")
		_, _ = a.Close(), b.Close()
	}
}

// TestPeerKnowsUsLate asks before the other end knows us: the first retries come soon.
func TestPeerKnowsUsLate(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	know(t, a, b.as())
	a.sendTo(b.addr, "early")
	time.Sleep(30 * time.Millisecond)
	know(t, b, a.as())
	start := time.Now()
	b.expect(t, "early")
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestRenewal(t *testing.T) {
	a, b := pair(t)
	a.sendTo(b.addr, "first")
	b.expect(t, "first")
	b.sendTo(a.addr, "confirmed")
	a.expect(t, "confirmed")
	p := a.peer(b.self)
	first := p.current.Load()
	p.mu.Lock()
	p.lastAsked = 0
	p.mu.Unlock()
	first.nonce.Store(rekeyAfterMessages + 1)
	a.sendTo(b.addr, "old session") // and a handshake begins
	b.expect(t, "old session")
	eventually(t, "a new session", func() bool { return p.current.Load() != first })
	a.sendTo(b.addr, "new session")
	b.expect(t, "new session")
	if p.prev.Load() != first {
		t.Error("what is under way in the old session would be lost")
	}
}

// TestExhaustedSession sends with a session that has no numbers left: it waits for the next one.
func TestExhaustedSession(t *testing.T) {
	a, b := pair(t)
	a.sendTo(b.addr, "first")
	b.expect(t, "first")
	p := a.peer(b.self)
	p.mu.Lock()
	p.lastAsked = 0
	p.mu.Unlock()
	p.current.Load().nonce.Store(rejectAfterMessages - 1)
	time.Sleep(floodGap) // the other end looks at no more initiations than that
	a.sendTo(b.addr, "two", "packets")
	b.expect(t, "two")
	b.expect(t, "packets")
}

// tap stands between two engines: it passes datagrams on and lets the test see and repeat them.
type tap struct {
	conn   *net.UDPConn
	peers  [2]netip.AddrPort
	frames chan []byte // what the first sent
}

func newTap(t testing.TB, a, b *node) *tap {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	w := &tap{conn: conn, frames: make(chan []byte, 1000)}
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	for i, n := range []*node{a, b} {
		w.peers[i] = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.ListenPort())
		other := []*node{b, a}[i]
		p := other.as()
		p.Endpoint = at
		know(t, n, p)
	}
	go w.run()
	return w
}

func (w *tap) run() {
	buf := make([]byte, 65535)
	for {
		n, from, err := w.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		to := w.peers[0]
		if from == w.peers[0] {
			to = w.peers[1]
			w.frames <- append([]byte(nil), buf[:n]...)
		}
		_, _ = w.conn.WriteToUDPAddrPort(buf[:n], to)
	}
}

func TestReplay(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	w := newTap(t, a, b)
	a.sendTo(b.addr, "once")
	b.expect(t, "once")
	var sent [][]byte
	for len(w.frames) > 0 {
		sent = append(sent, <-w.frames)
	}
	refused, replayed := b.count.handshakesRefused.Load(), b.count.replayed.Load()
	for _, f := range sent {
		_, _ = w.conn.WriteToUDPAddrPort(f, w.peers[1])
	}
	eventually(t, "initiation and packet refused", func() bool {
		return b.count.handshakesRefused.Load() > refused && b.count.replayed.Load() > replayed
	})
	b.expectNothing(t, 20*time.Millisecond)
	a.sendTo(b.addr, "unharmed")
	b.expect(t, "unharmed")
}

// TestTamperedMessages flips every byte of every message of an exchange in turn: nothing of it is taken, and the exchange goes on.
func TestTamperedMessages(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	w := newTap(t, a, b)
	a.sendTo(b.addr, "whole")
	b.expect(t, "whole")
	home := stats(t, b).Endpoint
	other, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	was, want := b.Drops(), map[string]uint64{}
	for len(w.frames) > 0 {
		f := <-w.frames
		for i := range f {
			flipped, cut := whyFlipped(f, i), whyCut(f, i)
			want[flipped]++
			want[cut]++
			f[i] ^= 0x80
			_, _ = other.WriteToUDPAddrPort(f, w.peers[1])
			_, _ = other.WriteToUDPAddrPort(f[:i], w.peers[1])
			f[i] ^= 0x80
			// One by one: under load what is wrong with a cookie alone would be answered with another.
			eventually(t, fmt.Sprintf("byte %d counted as %s, and without it as %s", i, flipped, cut), func() bool {
				is := b.Drops()
				return is[flipped]-was[flipped] >= want[flipped] && is[cut]-was[cut] >= want[cut]
			})
		}
	}
	b.expectNothing(t, 50*time.Millisecond)
	for why, n := range b.Drops() {
		if n -= was[why]; n != want[why] {
			t.Errorf("%d messages were dropped as %s, want %d", n, why, want[why])
		}
	}
	if at := stats(t, b).Endpoint; at != home {
		t.Errorf("a tampered message moved the peer to %s", at)
	}
	a.sendTo(b.addr, "unharmed")
	b.expect(t, "unharmed")
}

// whyFlipped is for what reason a message is dropped of which that byte is not what it was.
func whyFlipped(f []byte, at int) string {
	switch {
	case at < 4: // no type of message
		return datapath.DropMalformed
	case messageType(f) != typeTransport:
		return datapath.DropHandshakeRefused
	case at < transCounter:
		return datapath.DropNoSession
	}
	return datapath.DropUnauthentic
}

// whyCut is for what reason one is dropped that ends before that byte.
func whyCut(f []byte, at int) string {
	if messageType(f) == typeTransport && at >= Overhead {
		return datapath.DropUnauthentic
	}
	return datapath.DropMalformed
}

// TestForeignSource sends from an inner address that is another peer's, and from one that is nobody's.
func TestForeignSource(t *testing.T) {
	a, b, c := open(t, 1), open(t, 2), open(t, 3)
	know(t, a, b.as())
	know(t, b, a.as(), c.as())
	for _, src := range []netip.Addr{c.addr, netip.MustParseAddr("10.9.0.77")} {
		p := packet(src, b.addr, "spoofed")
		batch := a.NewBatch(len(p))
		copy(batch.Next(len(p)), p)
		a.Send(b.addr, batch)
	}
	a.sendTo(b.addr, "honest")
	b.expect(t, "honest")
	if n := b.Drops()["ForeignSource"]; n != 2 {
		t.Errorf("%d packets were refused for their source, want 2", n)
	}
}

func TestRemovedPeer(t *testing.T) {
	a, b := pair(t)
	a.sendTo(b.addr, "before")
	b.expect(t, "before")
	if err := b.UpdatePeers(nil, []key.Public{a.self}); err != nil {
		t.Fatal(err)
	}
	a.sendTo(b.addr, "after")
	b.sendTo(a.addr, "nobody")
	b.expectNothing(t, 50*time.Millisecond)
	a.expectNothing(t, time.Millisecond)
	know(t, b, a.as())
	b.sendTo(a.addr, "back")
	a.expect(t, "back")
}

// TestPresharedKeys has keys that differ: no session. Then they agree.
func TestPresharedKeys(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	pa, pb := a.as(), b.as()
	pa.PresharedKey, pb.PresharedKey = key.NewPreshared(), key.NewPreshared()
	know(t, a, pb)
	know(t, b, pa)
	a.sendTo(b.addr, "waits")
	b.expectNothing(t, 100*time.Millisecond)
	pb.PresharedKey = pa.PresharedKey
	know(t, a, pb)
	b.expect(t, "waits")
}

// TestCookies has an engine under load ask for a cookie, which its peer brings with the next try.
func TestCookies(t *testing.T) {
	a, b := pair(t)
	b.loaded.Store(int64(b.now().add(time.Hour)))
	a.sendTo(b.addr, "patient")
	b.expect(t, "patient")
	p := a.peer(b.self)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signer.given.IsZero() {
		t.Error("no cookie was asked for")
	}
}

func TestCounters(t *testing.T) {
	a, b := pair(t)
	a.sendTo(b.addr, "hello")
	b.expect(t, "hello")
	b.sendTo(a.addr, "answer")
	a.expect(t, "answer")
	eventually(t, "what one sent the other received", func() bool {
		x, y := stats(t, a), stats(t, b)
		return x.TxBytes == y.RxBytes && x.RxBytes == y.TxBytes
	})
	want := uint64(initiationSize + WireSize(25, 1420))
	if got := stats(t, a).TxBytes; got != want {
		t.Errorf("sent %d bytes, want %d", got, want)
	}
	if stats(t, a).LastHandshake.IsZero() || stats(t, b).LastHandshake.IsZero() {
		t.Error("the handshake is not reported")
	}
}

// TestKeepalive waits for a persistent keepalive without any traffic.
func TestKeepalive(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	know(t, b, a.as())
	p := b.as()
	p.Keepalive = time.Second
	know(t, a, p)
	eventually(t, "a handshake, and keepalives after it", func() bool { return stats(t, b).RxBytes >= initiationSize+2*Overhead })
	b.expectNothing(t, time.Millisecond)
}

// TestFlood begins a handshake with an engine that others keep busy with initiations that look right and are not: it must ask for
// cookies and still hear us, and what waits to be looked at must be bounded.
func TestFlood(t *testing.T) {
	a, b := pair(t)
	junk := make([]byte, initiationSize)
	junk[0] = typeInitiation
	junk[initEphemeral] = 9
	(&signer{keys: newMACKeys(b.self)}).sign(junk, time.Now())
	stop, stopped := make(chan struct{}), make(chan struct{})
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				for range 100 {
					_, _ = conn.WriteToUDPAddrPort(junk, a.peer(b.self).addrPort())
				}
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	eventually(t, "load", func() bool { return instant(b.loaded.Load()) > b.now() })
	a.sendTo(b.addr, "hello")
	select {
	case <-b.got:
	case <-time.After(20 * time.Second):
		t.Error("nothing gets through")
	}
	close(stop)
	<-stopped
	p := a.peer(b.self)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signer.given.IsZero() {
		t.Error("no cookie was asked for")
	}
}
