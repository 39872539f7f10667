package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Pods that connect; loopback has enough addresses for them.
var podA, podB, podC = netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.4")

func dialFrom(src netip.Addr, at netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), Timeout: 5 * time.Second}
	c, err := d.Dial("tcp4", at.String())
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), nil
}

// refusedFrom wants a connection to be reset, which may come before connect has returned.
func refusedFrom(t *testing.T, src netip.Addr, at netip.AddrPort) {
	t.Helper()
	c, err := dialFrom(src, at)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wantReset(t, c)
}

func connectFrom(t *testing.T, src netip.Addr, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := dialFrom(src, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func echoes(t *testing.T, c *net.TCPConn) {
	t.Helper()
	must(c.Write([]byte("hello")))
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q %v", b, err)
	}
}

func datagramsFrom(t *testing.T, src netip.Addr, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	c := must(net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), net.UDPAddrFromAddrPort(at)))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) egress(clients []netip.Addr, all ...Egress) {
	w.t.Helper()
	if err := w.r.SetEgress(all, clients); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) failures(name string, proto Protocol, why Reason) uint64 {
	return w.row(Relayed, name, proto).Failures[why]
}

// Pods that are listed are carried, others are reset at once; one that is listed no longer loses what it has, and nobody else does.
func TestEgressTCP(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		w.net.route(inner(1), server(t, echo))
		one := Egress{Name: "one", Listen: freePort(t, TCP), Protocol: TCP, Port: 80, Target: inner(1)}
		w.egress(nil, one)
		refusedFrom(t, podA, one.Listen)
		w.egress([]netip.Addr{podA, podB}, one)
		a, b := connectFrom(t, podA, one.Listen), connectFrom(t, podB, one.Listen)
		echoes(t, a)
		echoes(t, b)
		refusedFrom(t, podC, one.Listen)
		if n := w.failures("one", TCP, NotAllowed); n != 2 {
			t.Errorf("counted %d that may not", n)
		}
		w.egress([]netip.Addr{podB, podC}, one)
		wantReset(t, a)
		echoes(t, b)
		refusedFrom(t, podA, one.Listen)
		echoes(t, connectFrom(t, podC, one.Listen))
		if row := w.row(Relayed, "one", TCP); row.Total != 3 || row.Up == 0 || row.Down == 0 {
			t.Errorf("%+v", row)
		}
	})
}

// What changes about one port disturbs no other; a port whose host is another one now does not keep the connections of before.
func TestEgressChanges(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), server(t, echo))
	w.net.route(inner(2), server(t, named("two")))
	clients := []netip.Addr{podA}
	one := Egress{Name: "one", Listen: freePort(t, TCP), Protocol: TCP, Target: inner(1)}
	other := Egress{Name: "other", Listen: freePort(t, TCP), Protocol: TCP, Target: inner(1)}
	w.egress(clients, one, other)
	c, stays := connectFrom(t, podA, one.Listen), connectFrom(t, podA, other.Listen)
	echoes(t, c)
	echoes(t, stays)

	one.Target = netip.AddrPort{} // no route: who is there stays, who comes is refused
	w.egress(clients, one, other)
	echoes(t, c)
	refusedFrom(t, podA, one.Listen)
	if n := w.failures("one", TCP, NoTargets); n != 1 {
		t.Errorf("counted %d", n)
	}
	one.Name, one.Target = "two", inner(2)
	w.egress(clients, one, other)
	wantReset(t, c)
	d := connectFrom(t, podA, one.Listen)
	must(0, d.CloseWrite())
	if b, err := io.ReadAll(d); string(b) != "two" {
		t.Errorf("%q %v", b, err)
	}
	w.egress(clients, other)
	if c, err := dialFrom(podA, one.Listen); err == nil {
		_ = c.Close()
		t.Error("a port that was removed is open")
	}
	echoes(t, stays)
	if row := w.row(Relayed, "two", TCP); row.Total != 0 {
		t.Errorf("what was removed is counted still: %+v", row)
	}
}

func TestEgressUDP(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), udpServer(t, "one "))
	w.net.route(inner(2), udpServer(t, "two "))
	e := Egress{Name: "one", Listen: freePort(t, UDP), Protocol: UDP, Port: 5353, Target: inner(1)}
	w.egress([]netip.Addr{podA}, e)
	a, b := datagramsFrom(t, podA, e.Listen), datagramsFrom(t, podB, e.Listen)
	if got := ask(t, a, []byte("x")); !bytes.Equal(got, []byte("one x")) {
		t.Errorf("%q", got)
	}
	must(b.Write([]byte("x")))
	wantSilence(t, b)
	if n := w.failures("one", UDP, NotAllowed); n != 1 {
		t.Errorf("counted %d that may not", n)
	}
	e.Name, e.Target = "two", inner(2)
	w.egress([]netip.Addr{podA, podB}, e)
	for _, c := range []*net.UDPConn{a, b} {
		if got := ask(t, c, []byte("x")); !bytes.Equal(got, []byte("two x")) {
			t.Errorf("%q", got)
		}
	}
	w.egress([]netip.Addr{podB}, e)
	if n := w.row(Relayed, "two", UDP).Flows; n != 1 {
		t.Errorf("%d flows, want that of the pod that may", n)
	}
	must(a.Write([]byte("x")))
	wantSilence(t, a)
	ask(t, b, []byte("x"))
	e.Target = netip.AddrPort{}
	w.egress([]netip.Addr{podB}, e)
	must(b.Write([]byte("x")))
	wantSilence(t, b)
	w.egress([]netip.Addr{podB})
	if n := w.row(Relayed, "two", UDP).Flows; n != 0 {
		t.Errorf("%d flows of a port that was removed", n)
	}
}

// One pod cannot take what all share: its connections are bounded, and of its flows the oldest gives way.
func TestEgressLimits(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.ConnectionsPerPeer, o.Limits.FlowsPerPeer = 2, 2 })
	w.net.route(inner(1), server(t, echo))
	w.net.route(inner(2), udpServer(t, ""))
	tcp := Egress{Name: "tcp", Listen: freePort(t, TCP), Protocol: TCP, Target: inner(1)}
	udp := Egress{Name: "udp", Listen: freePort(t, UDP), Protocol: UDP, Target: inner(2)}
	w.egress([]netip.Addr{podA, podB}, tcp, udp)
	var held []*net.TCPConn
	for range 2 {
		held = append(held, connectFrom(t, podA, tcp.Listen))
		echoes(t, held[len(held)-1])
	}
	refusedFrom(t, podA, tcp.Listen)
	if n := w.failures("tcp", TCP, Limit); n != 1 {
		t.Errorf("counted %d", n)
	}
	echoes(t, connectFrom(t, podB, tcp.Listen))
	_ = held[0].Close()
	eventually(t, "room for another", func() bool { return w.row(Relayed, "tcp", TCP).Open == 2 })
	eventually(t, "another is carried", func() bool {
		c := connectFrom(t, podA, tcp.Listen)
		defer c.Close()
		_, err := c.Write([]byte("x"))
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		return err == nil
	})

	other := datagramsFrom(t, podB, udp.Listen)
	ask(t, other, []byte("x"))
	flows := make([]*net.UDPConn, 5)
	for i := range flows {
		flows[i] = datagramsFrom(t, podA, udp.Listen)
		ask(t, flows[i], []byte("x"))
	}
	if n := w.row(Relayed, "udp", UDP).Flows; n != 3 {
		t.Errorf("%d flows, want two of one pod and one of the other", n)
	}
	ask(t, flows[0], []byte("x")) // whose flow gave way begins another
	ask(t, other, []byte("x"))
}

func TestEgressIsRefused(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), server(t, echo))
	good := Egress{Name: "good", Listen: freePort(t, TCP), Protocol: TCP, Target: inner(1)}
	for want, e := range map[string]Egress{
		"0.0.0.0:20000 is not the pod's": {Listen: netip.MustParseAddrPort("0.0.0.0:20000"), Protocol: TCP},
		"[::]:20000 is not the pod's":    {Listen: netip.MustParseAddrPort("[::]:20000"), Protocol: TCP},
		"127.0.0.1:0 is not the pod's":   {Listen: netip.MustParseAddrPort("127.0.0.1:0"), Protocol: TCP},
		"invalid":                        {Protocol: TCP},
		`"SCTP" is not`:                  {Listen: netip.MustParseAddrPort("127.0.0.1:20000"), Protocol: "SCTP"},
		"10.9.1.1:0 is not an address":   {Listen: netip.MustParseAddrPort("127.0.0.1:20000"), Protocol: TCP, Target: netip.AddrPortFrom(inner(1).Addr(), 0)},
		"is taken":                       good,
	} {
		if err := w.r.SetEgress([]Egress{good, e}, []netip.Addr{podA}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	held := must(net.Listen("tcp4", "127.77.0.1:0"))
	defer held.Close()
	taken := Egress{Name: "taken", Listen: addrPortOf(held.Addr()), Protocol: TCP, Target: inner(1)}
	if err := w.r.SetEgress([]Egress{taken, good}, []netip.Addr{podA}); err == nil || !strings.Contains(err.Error(), fmt.Sprint(taken.Listen.Port())) {
		t.Error(err)
	}
	echoes(t, connectFrom(t, podA, good.Listen))
	_ = held.Close()
	w.egress([]netip.Addr{podA}, taken, good)
	echoes(t, connectFrom(t, podA, taken.Listen))
}

// While the relay drains nobody new comes in, and who is there goes on.
func TestEgressDrains(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), server(t, echo))
	e := Egress{Name: "one", Listen: freePort(t, TCP), Protocol: TCP, Target: inner(1)}
	w.egress([]netip.Addr{podA}, e)
	c := connectFrom(t, podA, e.Listen)
	echoes(t, c)
	w.r.stopAccepting()
	echoes(t, c)
	refusedFrom(t, podA, e.Listen)
	if err := w.r.SetEgress(nil, nil); !errors.Is(err, ErrDraining) {
		t.Error(err)
	}
}
