package relay

import (
	"io"
	"net"
	"net/netip"
	"testing"
)

// What comes in before there is a relay waits for it, with what it has sent; what no relay takes over is reset.
func TestAhead(t *testing.T) {
	var ahead Ahead
	w := newWorld(t, kernelMode, func(o *Options) { o.Ahead = &ahead })
	w.net.route(inner(1), server(t, echo))
	egress := func(name string) Egress {
		return Egress{Name: name, Listen: freePort(t, TCP), Protocol: TCP, Port: 80, Target: inner(1)}
	}
	one, gone, closed := egress("one"), egress("gone"), egress("closed")
	datagrams := egress("datagrams")
	datagrams.Protocol, datagrams.Listen = UDP, freePort(t, UDP)
	if err := ahead.Open(t.Context(), []Egress{one, gone, closed, datagrams, {Name: "bad"}}); err == nil {
		t.Error("a port that cannot be is open")
	}
	early := func(at netip.AddrPort) *net.TCPConn {
		t.Helper()
		c := connectFrom(t, podA, at)
		must(c.Write([]byte("early")))
		return c
	}
	waits, stranger, lost := early(one.Listen), connectFrom(t, podB, one.Listen), early(closed.Listen)
	must(datagramsFrom(t, podA, datagrams.Listen).Write([]byte("early")))
	if err := ahead.Open(t.Context(), []Egress{one, gone, datagrams}); err != nil {
		t.Error(err)
	}
	wantReset(t, lost)

	w.egress([]netip.Addr{podA}, one, datagrams)
	b := make([]byte, 5)
	if _, err := io.ReadFull(waits, b); err != nil || string(b) != "early" {
		t.Errorf("%q %v", b, err)
	}
	wantReset(t, stranger)
	eventually(t, "the first datagram", func() bool { return w.row(Relayed, "datagrams", UDP).FlowTotal == 1 })
	late := early(gone.Listen)
	ahead.Close()
	wantReset(t, late)
	if c, err := dialFrom(podA, gone.Listen); err == nil {
		_ = c.Close()
		t.Error("a port that nobody took is open")
	}
	echoes(t, connectFrom(t, podA, one.Listen)) // which is the relay's
}
