package relay

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var peerA, peerB = netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("10.9.0.8")

func (w *world) inbound(all ...Inbound) {
	w.t.Helper()
	if err := w.r.SetInbound(all); err != nil {
		w.t.Fatal(err)
	}
}

func TestInboundTCP(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		w.inbound(Inbound{Port: 80, Protocol: TCP, To: server(t, echo)})
		peer := w.net.connect(peerA, 80)
		if peer == nil {
			t.Fatal("refused")
		}
		defer peer.Close()
		sent := random(2 << 20)
		go func() { _, _ = peer.Write(sent); _ = peer.CloseWrite() }()
		if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		eventually(t, "stats", func() bool { return w.row(Accepted, "80", TCP).Open == 0 })
		if row := w.row(Accepted, "80", TCP); row.Up != uint64(len(sent)) || row.Down != uint64(len(sent)) || row.Total != 1 {
			t.Errorf("%+v", row)
		}
	})
}

func TestInboundRefuses(t *testing.T) {
	var denied atomic.Bool
	w := newWorld(t, kernelMode, func(o *Options) {
		o.AllowInbound = func(src, _ netip.Addr, port uint16, proto Protocol) bool { return src == peerA || !denied.Load() }
	})
	if w.net.connect(peerA, 80) != nil {
		t.Error("accepted before anything was listed")
	}
	w.inbound(Inbound{Port: 80, Protocol: TCP, To: server(t, echo)}, Inbound{Port: 81, Protocol: TCP, To: freePort(t, TCP)})
	denied.Store(true)
	if w.net.connect(peerA, 22) != nil {
		t.Error("accepted on a port that is not listed")
	}
	if w.net.connect(peerA, 81) != nil {
		t.Error("accepted although nobody listens")
	}
	if w.net.connect(peerB, 80) != nil {
		t.Error("accepted against policy")
	}
	if c := w.net.connect(peerA, 80); c == nil {
		t.Error("refused although allowed")
	} else {
		_ = c.Close()
	}
	for _, c := range []struct {
		name  string
		proto Protocol
		why   Reason
	}{{"other", "", NotExposed}, {"81", TCP, Refused}, {"80", TCP, NotAllowed}} {
		eventually(t, c.name, func() bool { return w.row(Accepted, c.name, c.proto).Failures[c.why] == 1 })
	}
}

func TestInboundBadEntries(t *testing.T) {
	w := newWorld(t, kernelMode)
	good := server(t, echo)
	err := w.r.SetInbound([]Inbound{
		{Port: 1, Protocol: TCP, To: netip.MustParseAddrPort("169.254.169.254:80")},
		{Port: 2, Protocol: TCP, To: netip.MustParseAddrPort("0.0.0.0:80")},
		{Port: 3, Protocol: "ICMP", To: good},
		{Port: 0, Protocol: TCP, To: good},
		{Port: 4, Protocol: TCP, To: good},
		{Port: 4, Protocol: TCP, To: good},
	})
	for _, want := range []string{"TCP 1:", "TCP 2:", "ICMP 3:", "TCP 0:", "TCP 4: port is listed twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if w.net.connect(peerA, 1) != nil {
		t.Error("a bad entry was accepted")
	}
	if c := w.net.connect(peerA, 4); c == nil {
		t.Error("the good entry was refused")
	} else {
		_ = c.Close()
	}
}

func TestInboundRevoked(t *testing.T) {
	var denied atomic.Bool
	w := newWorld(t, kernelMode, func(o *Options) {
		o.AllowInbound = func(src, _ netip.Addr, port uint16, proto Protocol) bool { return src == peerA || !denied.Load() }
	})
	in := Inbound{Port: 80, Protocol: TCP, To: server(t, echo)}
	w.inbound(in, Inbound{Port: 81, Protocol: TCP, To: in.To})
	a, b, gone := w.net.connect(peerA, 80), w.net.connect(peerB, 80), w.net.connect(peerA, 81)
	denied.Store(true)
	w.inbound(in)
	wantReset(t, b)
	wantReset(t, gone)
	if got := string(ask(t, a, []byte("alive"))); got != "alive" {
		t.Errorf("%q", got)
	}
	_ = a.Close()
}

func TestInboundCaps(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.ConnectionsPerPeer = 2 })
	w.inbound(Inbound{Port: 80, Protocol: TCP, To: server(t, echo)})
	one, two := w.net.connect(peerA, 80), w.net.connect(peerA, 80)
	defer one.Close()
	if w.net.connect(peerA, 80) != nil {
		t.Error("a third connection was accepted")
	}
	if c := w.net.connect(peerB, 80); c == nil {
		t.Error("another peer suffers")
	} else {
		_ = c.Close()
	}
	_ = two.Close()
	eventually(t, "the place is free again", func() bool {
		c := w.net.connect(peerA, 80)
		if c == nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func TestInboundUDP(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		w.inbound(Inbound{Port: 53, Protocol: UDP, To: udpServer(t, "")})
		peer := w.net.send(t, netip.AddrPortFrom(peerA, 1000), 53, []byte("first"))
		if peer == nil {
			t.Fatal("refused")
		}
		if got := receive(t, peer); string(got) != "first" {
			t.Errorf("%q", got)
		}
		for _, n := range []int{0, 65507, 1} {
			if got := ask(t, peer, random(n)); len(got) != n {
				t.Errorf("%d bytes came back as %d", n, len(got))
			}
		}
		if w.net.send(t, netip.AddrPortFrom(peerA, 1000), 54, nil) != nil {
			t.Error("a port that is not listed was accepted")
		}
		w.inbound()
		eventually(t, "the flow ends with its port", func() bool { return w.r.inbound.dnsTable.size() == 0 })
	})
}

func TestInboundUDPNobodyListens(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.inbound(Inbound{Port: 99, Protocol: UDP, To: freePort(t, UDP)})
	w.net.send(t, netip.AddrPortFrom(peerA, 1000), 99, []byte("x"))
	eventually(t, "the next flow is refused", func() bool {
		return w.net.send(t, netip.AddrPortFrom(peerA, 1000), 99, []byte("x")) == nil
	})
}

func TestInboundUDPCapAndIdle(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) {
		o.Limits.FlowsPerPeer, o.Limits.UDPIdle = 1, 200*time.Millisecond
	})
	w.inbound(Inbound{Port: 99, Protocol: UDP, To: udpServer(t, "")})
	if w.net.send(t, netip.AddrPortFrom(peerA, 1000), 99, []byte("x")) == nil {
		t.Fatal("refused")
	}
	if w.net.send(t, netip.AddrPortFrom(peerA, 1001), 99, []byte("x")) != nil {
		t.Error("a second flow of the peer was accepted")
	}
	if w.net.send(t, netip.AddrPortFrom(peerB, 1000), 99, []byte("x")) == nil {
		t.Error("another peer suffers")
	}
	eventually(t, "silence frees the place", func() bool {
		return w.net.send(t, netip.AddrPortFrom(peerA, 1001), 99, []byte("x")) != nil
	})
}

func TestInboundDrainRefuses(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.inbound(Inbound{Port: 80, Protocol: TCP, To: server(t, echo)})
	c := w.net.connect(peerA, 80)
	go func() { time.Sleep(50 * time.Millisecond); _ = c.Close() }()
	if err := w.r.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if w.net.connect(peerA, 80) != nil {
		t.Error("accepted after drain")
	}
}
