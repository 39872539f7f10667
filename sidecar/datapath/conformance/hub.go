package conformance

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"
)

// testHub puts a hub between a member and an outside peer, which know nothing of each other but the way.
func testHub(t *testing.T, r *room) {
	hub, member, outside := r.open(1), r.open(2), r.open(3)
	asHub := hub.iface(mtu)
	asHub.Hub = true
	if !hub.Capabilities().Hub {
		if err := hub.SetInterface(asHub); err == nil {
			t.Error("it was made a hub, which it says it cannot be")
		}
		return
	}
	stranger := outside.as()
	stranger.Outside = true
	hub.update(member.as(), stranger)
	for n, other := range map[*node]*node{member: outside, outside: member} {
		way := hub.as()
		way.AllowedIPs = append(way.AllowedIPs, other.as().AllowedIPs...)
		n.update(way)
		n.accept(echo)
		n.echoUDP()
	}
	hub.accept(echo)
	r.unreachable(outside, member, "before it is a hub")
	hub.set(asHub)
	for from, to := range map[*node]*node{member: outside, outside: member} {
		for _, a := range []netip.Addr{to.v4, to.v6} {
			from.say(a, "through the hub")
			from.bulk(a)
			c := from.dialUDP(a, namePort)
			buf := make([]byte, 2000)
			if _, err := c.Write(make([]byte, 1300)); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(buf); err != nil || n != 1300 {
				t.Fatalf("a datagram to %s came back with %d bytes, %v", a, n, err)
			}
		}
		from.say(hub.v4, "to the hub itself")
	}
	hub.update(outside.as())
	r.unreachable(outside, member, "as another member")
	hub.update(stranger)
	outside.say(member.v4, "outside again")
	hub.set(hub.iface(mtu))
	r.unreachable(outside, member, "after it was a hub")
}

// bulk has some megabytes come back as they were sent.
func (n *node) bulk(to netip.Addr) {
	n.r.t.Helper()
	data := random(short(8<<20, 1<<20), 7)
	c := n.dial(to)
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != string(data) {
		n.r.t.Fatalf("%d bytes came back of %d, %v", len(got), len(data), err)
	}
	_ = c.Close()
}

func (r *room) unreachable(from, to *node, when string) {
	r.t.Helper()
	r.unreachableAt(from, netip.AddrPortFrom(to.v4, webPort), when)
}

func (r *room) unreachableAt(from *node, to netip.AddrPort, when string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if c, err := from.DialTCP(ctx, to); err == nil {
		_ = c.Close()
		r.t.Errorf("it was passed on %s", when)
	}
}
