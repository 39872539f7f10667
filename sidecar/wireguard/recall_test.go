package wireguard

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// successor is another engine with the node's key at its port, which knows none of its sessions.
func (n *node) successor(t *testing.T) *node {
	t.Helper()
	port := n.ListenPort()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, 9, func(o *Options) { o.PrivateKey, o.ListenPort = n.priv, port })
	s.priv, s.addr = n.priv, n.addr
	return s
}

// Who goes on sending with a session that is gone with its other end is called by who has that end's key now, long before it would find
// out, though nobody knew where it is.
func TestRecall(t *testing.T) {
	a, b := pair(t)
	a.sendTo(b.addr, "before")
	b.expect(t, "before")
	asked := a.peer(b.priv.Public())
	asked.mu.Lock()
	last := asked.lastAsked
	asked.mu.Unlock()
	b = b.successor(t)
	dials := a.as()
	dials.Endpoint = netip.AddrPort{}
	know(t, b, dials)
	// What the successor does not know is lost. It may be in the middle of the session, so that the end is the one that began it or not.
	deadline := time.Now().Add(3 * time.Second)
	for got := false; !got; {
		if time.Now().After(deadline) {
			t.Fatalf("it was not called: %v", b.Drops())
		}
		a.sendTo(b.addr, "after")
		select {
		case <-b.got:
			got = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	asked.mu.Lock()
	defer asked.mu.Unlock()
	if asked.lastAsked != last {
		t.Error("it was its own handshake: the test shows nothing")
	}
	if b.Drops()["NoSession"] == 0 {
		t.Errorf("the successor saw nothing: %v", b.Drops())
	}
}

// stranger is somebody who sends whatever it likes to the node, and counts what comes back within a while.
func (n *node) stranger(t *testing.T, within time.Duration, packets ...[]byte) (back int) {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(n.as().Endpoint))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, p := range packets {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lookAgain)
	}
	_ = c.SetReadDeadline(time.Now().Add(within))
	for b := make([]byte, 2000); ; back++ {
		if _, err := c.Read(b); err != nil {
			return back
		}
	}
}

// dataTo is a packet to an index, with nothing in it that anybody could open.
func dataTo(index uint32) []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b, typeTransport)
	binary.LittleEndian.PutUint32(b[transReceiver:], index)
	return b
}

// Whoever repeats a peer's index from elsewhere is sent one handshake message a second, which means nothing to him; who makes one up,
// nothing. The peer stays where it is, and with a session in use nobody is called.
func TestRecallOfStrangers(t *testing.T) {
	a, b := pair(t)
	a.sendTo(b.addr, "before")
	b.expect(t, "before")
	known := b.index.mark.index(b.peer(a.priv.Public()).tag)
	if n := b.stranger(t, 300*time.Millisecond, dataTo(known), dataTo(known)); n > 0 {
		t.Errorf("%d messages for who uses an old index of a peer with a session", n)
	}
	b = b.successor(t)
	know(t, b, a.as())
	at := b.peer(a.priv.Public()).addrPort()
	many := make([][]byte, 20)
	for i := range many {
		many[i] = dataTo(known)
	}
	if n := b.stranger(t, 300*time.Millisecond, many...); n != 1 {
		t.Errorf("%d messages for twenty repeated packets, want 1", n)
	}
	if now := b.peer(a.priv.Public()).addrPort(); now != at {
		t.Errorf("the peer was moved from %s to %s by who is not the peer", at, now)
	}
	for i := range many {
		n := b.index.mark.index(b.peer(a.priv.Public()).tag + 1 + uint16(i))
		many[i] = dataTo(n)
	}
	if n := b.stranger(t, 300*time.Millisecond, many...); n > 0 {
		t.Errorf("%d messages for indices of nobody", n)
	}
}

// An index tells who has the key whose it is, and nobody else.
func TestIndexMark(t *testing.T) {
	private := key.NewPrivate()
	ours, same, other := newIndexMark(private.ECDH().Bytes()), newIndexMark(private.ECDH().Bytes()), newIndexMark(key.NewPrivate().ECDH().Bytes())
	if ours != same || ours == other {
		t.Fatal("the mark does not follow from the key")
	}
	told := 0
	for range 1000 {
		tag := ours.tag(key.NewPrivate().Public())
		n := ours.index(tag)
		if same.tagOf(n) != tag {
			t.Fatalf("index %08x: tag %04x, want %04x", n, same.tagOf(n), tag)
		}
		if other.tagOf(n) == tag {
			told++
		}
	}
	if told > 2 {
		t.Errorf("another key reads %d of 1000", told)
	}
}
