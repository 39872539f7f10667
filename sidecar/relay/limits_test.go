package relay

import (
	"net/netip"
	"testing"
	"time"
)

// site finds one peer behind all of 10.66.0.0/16 and fd66::/16; everybody else is one of his own.
func site(a netip.Addr) netip.Addr {
	first := netip.MustParseAddr("10.66.0.1")
	if netip.MustParsePrefix("10.66.0.0/16").Contains(a) || netip.MustParsePrefix("fd66::/16").Contains(a) {
		return first
	}
	return a
}

// TestPeerOfManyAddresses: who comes from many addresses has no more connections and flows than who comes from one.
func TestPeerOfManyAddresses(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) {
		o.Limits.ConnectionsPerPeer, o.Limits.FlowsPerPeer, o.PeerOf = 2, 2, site
	})
	w.inbound(Inbound{Port: 80, Protocol: TCP, To: server(t, echo)}, Inbound{Port: 99, Protocol: UDP, To: udpServer(t, "")})
	opened, flows := 0, 0
	for _, s := range []string{"10.66.0.1", "10.66.0.2", "10.66.255.7", "fd66::1", "fd66::2"} {
		a := netip.MustParseAddr(s)
		if c := w.net.connect(a, 80); c != nil {
			opened++
			defer c.Close()
		}
		if w.net.send(t, netip.AddrPortFrom(a, 1000), 99, []byte("x")) != nil {
			flows++
		}
	}
	if opened != 2 || flows != 2 {
		t.Errorf("a site has %d connections and %d flows, want 2 and 2", opened, flows)
	}
	c := w.net.connect(peerB, 80)
	if c == nil || w.net.send(t, netip.AddrPortFrom(peerB, 1000), 99, []byte("x")) == nil {
		t.Fatal("another peer suffers")
	}
	_ = c.Close()
}

// TestPeerLimitsChange: new limits are kept at once, and what is open stays.
func TestPeerLimitsChange(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.inbound(Inbound{Port: 80, Protocol: TCP, To: server(t, echo)}, Inbound{Port: 99, Protocol: UDP, To: udpServer(t, "")})
	one, two := w.net.connect(peerA, 80), w.net.connect(peerA, 80)
	defer one.Close()
	defer two.Close()
	w.r.SetPeerLimits(1, 1)
	if w.net.connect(peerA, 80) != nil {
		t.Error("a connection above the new limit")
	}
	if got := string(ask(t, two, []byte("alive"))); got != "alive" {
		t.Errorf("what was open: %q", got)
	}
	if w.net.send(t, netip.AddrPortFrom(peerA, 1000), 99, []byte("x")) == nil || w.net.send(t, netip.AddrPortFrom(peerA, 1001), 99, []byte("x")) != nil {
		t.Error("not one flow")
	}
	w.r.SetPeerLimits(0, 0)
	if c := w.net.connect(peerA, 80); c == nil || w.net.send(t, netip.AddrPortFrom(peerA, 1002), 99, []byte("x")) == nil {
		t.Error("the limits did not go back")
	} else {
		_ = c.Close()
	}
}

// TestFullTable: where all share a table that is full, whoever has most in it gives way, not whoever was silent longest.
func TestFullTable(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) {
		o.Limits.Flows, o.Limits.UDPIdle = 4, time.Hour
	})
	w.inbound(Inbound{Port: 99, Protocol: UDP, To: udpServer(t, "")})
	quiet := w.net.send(t, netip.AddrPortFrom(peerB, 1000), 99, []byte("x"))
	if quiet == nil || string(receive(t, quiet)) != "x" {
		t.Fatal("refused")
	}
	for port := range uint16(40) {
		if w.net.send(t, netip.AddrPortFrom(peerA, 2000+port), 99, []byte("x")) == nil {
			t.Fatal("refused")
		}
	}
	if got := string(ask(t, quiet, []byte("still there"))); got != "still there" {
		t.Errorf("%q", got)
	}
	eventually(t, "the table is full and no more", func() bool { return w.r.inbound.table.size() == 4 })
}
