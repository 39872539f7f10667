package relay

import (
	"fmt"
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

// taken is how many connections and flows of a peer are accepted, of many that it tries.
func (w *world) taken(t *testing.T, a netip.Addr, service netip.Addr) (connections, flows int) {
	t.Helper()
	for i := range uint16(6) {
		if c := w.net.connectAt(a, at(service, 80)); c != nil {
			connections++
			t.Cleanup(func() { _ = c.Close() })
		}
		if w.net.sendAt(t, at(a, 1000+i), at(service, 99), []byte("x")) != nil {
			flows++
		}
	}
	return connections, flows
}

var gatewayAddress = netip.MustParseAddr("10.9.0.254")

// manyAtGateway takes the gateway's address for that of many.
func manyAtGateway(a netip.Addr) netip.Addr {
	if a == gatewayAddress {
		return netip.Addr{}
	}
	return a
}

// TestPeerLimitsAreForOutside: what outside peers are limited to, be it more or less, is nothing to members; nor to whoever stands for
// many, who has no limits per peer at all.
func TestPeerLimitsAreForOutside(t *testing.T) {
	for _, limit := range []int{1, 5} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			w := newWorld(t, kernelMode, func(o *Options) {
				o.Limits.ConnectionsPerPeer, o.Limits.DialsPerPeer, o.Limits.FlowsPerPeer, o.PeerOf = 3, 3, 3, manyAtGateway
				o.IsOutside = func(a netip.Addr) bool { return a == peerA || a == gatewayAddress }
			})
			w.inbound(Inbound{Port: 80, Protocol: TCP, To: server(t, echo)}, Inbound{Port: 99, Protocol: UDP, To: udpServer(t, "")})
			w.r.SetPeerLimits(limit, limit)
			for a, want := range map[netip.Addr]int{peerA: limit, peerB: 3, gatewayAddress: 6} {
				if connections, flows := w.taken(t, a, netip.MustParseAddr("10.9.0.1")); connections != want || flows != want {
					t.Errorf("%s has %d connections and %d flows, want %d of each", a, connections, flows, want)
				}
			}
		})
	}
}

// TestDialsOfMany: one that stands for many is not held to the dials of one peer either, although nobody answers.
func TestDialsOfMany(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) {
		o.Limits.DialsPerPeer, o.Limits.DialTimeout, o.PeerOf = 1, 500*time.Millisecond, manyAtGateway
	})
	w.net.route(inner(1), netip.AddrPort{}) // what goes there vanishes
	w.publish(web([]netip.AddrPort{inner(1)}, nil))
	for _, a := range []netip.Addr{peerA, gatewayAddress} {
		for range 3 {
			go w.net.connectAt(a, at(webAddress, 80))
		}
	}
	eventually(t, "one dial of the peer's and all of the others", func() bool { return w.net.dialled(inner(1)) >= 4 })
	eventually(t, "the peer's others are dialled in turn, or refused as they have waited too long", func() bool {
		return w.net.dialled(inner(1))+int(w.row(Accepted, "web:80", TCP).Failures[Limit]) == 6
	})
}

// TestPeerLimitsOfServices: a gateway holds each outside peer to its limits before it dials for it.
func TestPeerLimitsOfServices(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.IsOutside = func(a netip.Addr) bool { return a == peerA } })
	w.net.route(inner(1), server(t, echo))
	w.net.route(inner(2), udpServer(t, ""))
	w.publish(web([]netip.AddrPort{inner(1)}, nil),
		Published{Name: "web", Addresses: []netip.Addr{webAddress}, Port: 99, Protocol: UDP, Inside: []netip.AddrPort{inner(2)}})
	w.r.SetPeerLimits(2, 1)
	if connections, flows := w.taken(t, peerA, webAddress); connections != 2 || flows != 1 {
		t.Errorf("an outside peer has %d connections and %d flows, want 2 and 1", connections, flows)
	}
	if n := w.net.dialled(inner(1)); n != 2 {
		t.Errorf("%d were dialled", n)
	}
	if connections, flows := w.taken(t, peerB, webAddress); connections != 6 || flows != 6 {
		t.Errorf("a member has %d connections and %d flows, want 6 of each", connections, flows)
	}
}

// TestLookupsAreCountedApart: however many names a peer looks up, it gets its answers and has its flows; the flows of others stay.
func TestLookupsAreCountedApart(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.FlowsPerPeer, o.PeerOf = 2, site })
	w.inbound(Inbound{Port: 53, Protocol: UDP, To: udpServer(t, "")}, Inbound{Port: 99, Protocol: UDP, To: udpServer(t, "")})
	w.r.SetPeerLimits(1, 1)
	other := w.net.send(t, at(peerB, 1000), 53, []byte("x"))
	if other == nil || string(receive(t, other)) != "x" {
		t.Fatal("refused")
	}
	for i := range 20 {
		a := netip.AddrFrom4([4]byte{10, 66, 0, byte(i)})
		c := w.net.send(t, at(a, 1000), 53, []byte("x"))
		if c == nil || string(receive(t, c)) != "x" {
			t.Fatalf("look-up %d was refused", i)
		}
	}
	eventually(t, "a site's look-ups are bounded", func() bool { return w.r.inbound.dnsTable.size() == 3 })
	a := netip.MustParseAddr("10.66.0.1")
	if w.net.send(t, at(a, 2000), 99, []byte("x")) == nil || w.net.send(t, at(a, 2001), 99, []byte("x")) != nil {
		t.Error("not one flow beside the look-ups")
	}
	if got := string(ask(t, other, []byte("still there"))); got != "still there" {
		t.Errorf("%q", got)
	}
}
