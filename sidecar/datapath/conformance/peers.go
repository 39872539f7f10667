package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// numbered streams consecutive numbers from a to b until stop, and says how many arrived and whether each followed the last.
func numbered(t *testing.T, a, b *node) (count *atomic.Uint64, stop func()) {
	t.Helper()
	count = new(atomic.Uint64)
	finished := make(chan struct{})
	b.accept(func(c datapath.Stream) {
		defer close(finished)
		buf := make([]byte, 8)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("stream broke after %d numbers: %v", count.Load(), err)
				}
				return
			}
			if n := binary.BigEndian.Uint64(buf); n != count.Load() {
				t.Errorf("got number %d, want %d", n, count.Load())
				return
			}
			count.Add(1)
		}
	})
	c := a.dial(b.v4)
	var done atomic.Bool
	go func() {
		block := make([]byte, 8<<10)
		for n := uint64(0); !done.Load(); {
			for i := 0; i < len(block); i += 8 {
				binary.BigEndian.PutUint64(block[i:], n)
				n++
			}
			if _, err := c.Write(block); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
		_ = c.CloseWrite()
	}()
	return count, func() {
		done.Store(true)
		within(t, "end of stream", func() { <-finished })
	}
}

// goesOn waits for the stream to move.
func goesOn(r *room, count *atomic.Uint64) {
	r.t.Helper()
	before := count.Load()
	r.eventually("the stream goes on", func() bool { return count.Load() != before })
}

// testOthersUndisturbed changes everything around a running transfer.
func testOthersUndisturbed(t *testing.T, r *room) {
	a, b := r.pair()
	c := r.open(3)
	c.update(a.as())
	count, stop := numbered(t, a, b)
	psk := key.NewPreshared()
	for i := range short(20, 6) {
		extra := c.as()
		extra.Keepalive = time.Duration(i) * time.Second
		if i%2 == 1 {
			extra.PresharedKey = psk
			extra.AllowedIPs = append(extra.AllowedIPs, netip.MustParsePrefix("10.77.0.0/16"))
		}
		a.update(extra, b.as()) // b is named, but unchanged
		others := make([]datapath.Peer, 50)
		for j := range others {
			others[j] = datapath.Peer{PublicKey: key.NewPrivate().Public()}
		}
		a.update(others...)
		gone := []key.Public{extra.PublicKey}
		for _, p := range others {
			gone = append(gone, p.PublicKey)
		}
		if err := a.UpdatePeers(nil, gone); err != nil {
			t.Fatal(err)
		}
		goesOn(r, count)
	}
	stop()
	if p := a.peer(); p.PublicKey != b.priv.Public() {
		t.Fatalf("another peer is left: %+v", p)
	}
}

// testTakeover gives a peer's addresses to another peer in one delta, as a key rotation does.
func testTakeover(t *testing.T, r *room) {
	a, b := r.pair()
	b.accept(echo)
	a.say(b.v4, "old")
	next := r.openAs(3, 2, key.NewPrivate(), 0) // the same addresses, another key and host
	next.update(a.as())
	next.accept(func(c datapath.Stream) { _, _ = io.WriteString(c, "next: "); echo(c) })
	if err := a.UpdatePeers([]datapath.Peer{next.as()}, []key.Public{b.priv.Public()}); err != nil {
		t.Fatal(err)
	}
	c := a.dial(next.v4)
	_, _ = io.WriteString(c, "hello")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "next: hello" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func testRefusedDeltas(t *testing.T, r *room) {
	a, b := r.pair()
	other := datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: prefixes("10.1.0.0/16")}
	with := func(f func(*datapath.Peer)) []datapath.Peer {
		p := other
		f(&p)
		return []datapath.Peer{p}
	}
	for name, tc := range map[string]struct {
		upsert []datapath.Peer
		remove []key.Public
		want   string
	}{
		"own key":         {upsert: with(func(p *datapath.Peer) { p.PublicKey = a.priv.Public() }), want: "itself"},
		"no key":          {upsert: with(func(p *datapath.Peer) { p.PublicKey = key.Public{} }), want: "no public key"},
		"named twice":     {upsert: []datapath.Peer{other, other}, want: "twice"},
		"in both":         {upsert: []datapath.Peer{other}, remove: []key.Public{other.PublicKey}, want: "twice"},
		"stolen address":  {upsert: with(func(p *datapath.Peer) { p.AllowedIPs = b.as().AllowedIPs }), want: b.priv.Public().String()},
		"mapped address":  {upsert: with(func(p *datapath.Peer) { p.AllowedIPs = prefixes("::ffff:10.0.0.0/104") }), want: "allowed IP"},
		"no prefix":       {upsert: with(func(p *datapath.Peer) { p.AllowedIPs = []netip.Prefix{{}} }), want: "allowed IP"},
		"endpoint port":   {upsert: with(func(p *datapath.Peer) { p.Endpoint = netip.MustParseAddrPort("192.0.2.1:0") }), want: "endpoint"},
		"endpoint any":    {upsert: with(func(p *datapath.Peer) { p.Endpoint = netip.MustParseAddrPort("0.0.0.0:1") }), want: "endpoint"},
		"endpoint group":  {upsert: with(func(p *datapath.Peer) { p.Endpoint = netip.MustParseAddrPort("[ff02::1]:1") }), want: "endpoint"},
		"keepalive < 0":   {upsert: with(func(p *datapath.Peer) { p.Keepalive = -time.Second }), want: "keepalive"},
		"keepalive > max": {upsert: with(func(p *datapath.Peer) { p.Keepalive = 65536 * time.Second }), want: "keepalive"},
		"keepalive ms":    {upsert: with(func(p *datapath.Peer) { p.Keepalive = time.Millisecond }), want: "keepalive"},
	} {
		t.Run(name, func(t *testing.T) {
			// A good peer beside the bad one must not be applied either.
			good := datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: prefixes("10.250.0.0/16")}
			err := a.UpdatePeers(append([]datapath.Peer{good}, tc.upsert...), tc.remove)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error with %q", err, tc.want)
			}
			if p := a.peer(); p.PublicKey != b.priv.Public() {
				t.Fatalf("another peer afterwards: %+v", p)
			}
		})
	}
}

func testPresharedKey(_ *testing.T, r *room) {
	a, b := r.open(1), r.open(2)
	psk := key.NewPreshared()
	toB, toA := b.as(), a.as()
	toB.PresharedKey, toA.PresharedKey = psk, psk
	a.update(toB)
	b.update(toA)
	b.accept(echo)
	a.say(b.v4, "hello")
}

func testWrongPresharedKey(t *testing.T, r *room) {
	a, b := r.open(1), r.open(2)
	toB, toA := b.as(), a.as()
	toB.PresharedKey = key.NewPreshared()
	b.openTCP(80)
	b.HandleTCP(func(q datapath.TCPRequest) { t.Errorf("request from %s", q.Remote()); q.Refuse() })
	for name, theirs := range map[string]key.Preshared{"another": key.NewPreshared(), "none": {}} {
		t.Run(name, func(t *testing.T) {
			toA.PresharedKey = theirs
			a.update(toB)
			b.update(toA)
			c, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			if _, err := a.DialTCP(c, netip.AddrPortFrom(b.v4, 80)); err == nil {
				t.Fatal("connected")
			}
			if p := a.peer(); !p.LastHandshake.IsZero() {
				t.Fatalf("the handshake succeeded: %+v", p)
			}
		})
	}
}

// forget has n know a peer as if for the first time: without a session.
func (n *node) forget(p datapath.Peer) {
	n.r.t.Helper()
	if err := n.UpdatePeers(nil, []key.Public{p.PublicKey}); err != nil {
		n.r.t.Fatal(err)
	}
	n.update(p)
}

// testPresharedKeyChanges changes it under a running stream. The session goes on, as with any WireGuard; the next one is made with the new
// key, whoever begins it, and where only one end has that there is none.
func testPresharedKeyChanges(t *testing.T, r *room) {
	a, b := r.pair()
	a.accept(echo)
	toA, toB := a.as(), b.as()
	toA.PresharedKey = key.NewPreshared()
	toB.PresharedKey = toA.PresharedKey
	b.update(toA)
	a.update(toB)
	count, stop := numbered(t, a, b)
	goesOn(r, count)

	toA.PresharedKey = key.NewPreshared()
	toB.PresharedKey = toA.PresharedKey
	first := a.peer().LastHandshake
	b.update(toA)
	goesOn(r, count)
	a.update(toB)
	goesOn(r, count)
	if now := a.peer().LastHandshake; now != first {
		t.Errorf("a handshake at %s; want none after that at %s", now, first)
	}
	b.forget(toA)
	b.say(a.v4, "by a session that b began")
	second := a.peer().LastHandshake
	if !second.After(first) {
		t.Errorf("handshakes at %s, then %s; want a new session", first, second)
	}
	before := b.peer().LastHandshake
	a.forget(toB)
	r.eventually("there is a session that a began", func() bool { return b.peer().LastHandshake.After(before) })
	stop()

	toB.PresharedKey = key.NewPreshared()
	before = a.peer().LastHandshake
	a.update(toB)
	b.forget(toA)
	r.unreachable(b, a, "with the old preshared key")
	r.unreachable(a, b, "without the new preshared key")
	if at, bt := a.peer().LastHandshake, b.peer().LastHandshake; at != before || !bt.IsZero() {
		t.Errorf("handshakes at %s and %s; want none after %s", at, bt, before)
	}
	toA.PresharedKey = toB.PresharedKey
	b.forget(toA)
	b.say(a.v4, "both have the new one")
}

// move closes a node and opens it again on another port: same key, same addresses.
func (n *node) move() *node {
	n.r.t.Helper()
	old := n.ListenPort()
	n.close()
	port := old + 1
	if port == 0 {
		port = 20000
	}
	moved := n.r.openAs(n.host, int(n.v4.As4()[3]), n.priv, port)
	time.Sleep(50 * time.Millisecond) // WireGuard takes one handshake of a peer in 20 ms
	return moved
}

// testRoamingDialler moves the end that dials: who listens learns the new endpoint, and a delta that repeats the old one does not undo
// that.
func testRoamingDialler(t *testing.T, r *room) {
	a, b := r.pair()
	b.accept(echo)
	old := a.as()
	a.say(b.v4, "here")
	moved := a.move()
	moved.update(b.as())
	moved.say(b.v4, "moved")
	b.update(old)
	if p := b.peer(); p.Endpoint.Port() != moved.ListenPort() {
		t.Fatalf("peer %+v; want port %d", p, moved.ListenPort())
	}
	moved.say(b.v4, "moved still")
}

// testRoamingListener moves the end that was dialled: once it has been heard of, the other finds it again.
func testRoamingListener(t *testing.T, r *room) {
	a, b := r.pair()
	a.accept(echo)
	b.accept(echo)
	a.say(b.v4, "here")
	moved := b.move()
	moved.update(a.as())
	moved.accept(echo)
	moved.say(a.v4, "I moved")
	a.say(b.v4, "I know")
	if p := a.peer(); p.Endpoint.Port() != moved.ListenPort() {
		t.Fatalf("peer %+v; want port %d", p, moved.ListenPort())
	}
}

// testLearnsEndpoint leaves b without a's endpoint, as a gateway is without a laptop's.
func testLearnsEndpoint(t *testing.T, r *room) {
	a, b := r.open(1), r.open(2)
	unknown := a.as()
	unknown.Endpoint = netip.AddrPort{}
	b.update(unknown)
	if p := b.peer(); p.Endpoint.IsValid() {
		t.Fatalf("before: %+v", p)
	}
	a.update(b.as())
	b.accept(echo)
	a.say(b.v4, "hello")
	if p := b.peer(); p.Endpoint.Port() != a.ListenPort() {
		t.Fatalf("after: %+v", p)
	}
}

// testCounters moves a known number of bytes. Both ends must have counted it, and counted the same.
func testCounters(t *testing.T, r *room) {
	const size = 1 << 20
	a, b := r.pair()
	if p := a.peer(); !p.LastHandshake.IsZero() || p.RxBytes != 0 || p.TxBytes != 0 {
		t.Fatalf("before: %+v", p)
	}
	b.accept(echo)
	c := a.dial(b.v4)
	want := random(size, 1)
	go func() { _, _ = c.Write(want); _ = c.CloseWrite() }()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	p := a.peer()
	if p.RxBytes < size || p.TxBytes < size || time.Since(p.LastHandshake) > time.Minute || len(p.AllowedIPs) != 2 ||
		p.Endpoint.Port() != b.ListenPort() {
		t.Fatalf("after: %+v", p)
	}
	// What a full socket has lost was sent and not received: a few packets of a stream that fills it. Where nothing is lost they are the same, as
	// testRawCounters shows.
	same := func(x, y uint64) bool { return max(x, y)-min(x, y) < 4096 }
	end := time.Now().Add(patience / 10)
	for p, q := a.peer(), b.peer(); !same(p.TxBytes, q.RxBytes) || !same(p.RxBytes, q.TxBytes); p, q = a.peer(), b.peer() {
		if time.Now().After(end) {
			t.Fatalf("the ends counted differently: %d sent, %d received; %d sent, %d received", p.TxBytes, q.RxBytes, q.TxBytes, p.RxBytes)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
