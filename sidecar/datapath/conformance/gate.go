package conformance

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// openAt has n answer with an echo at these addresses and ports, and nowhere else.
func (n *node) openAt(at ...netip.AddrPort) {
	n.r.t.Helper()
	gate, gated := n.Datapath.(datapath.Gate)
	if gated {
		if err := gate.OpenPorts(datapath.Ports{TCPAt: at, UDPAt: at}); err != nil {
			n.r.t.Fatal(err)
		}
	}
	asked := func(local netip.AddrPort) bool {
		open := slices.Contains(at, local)
		if !open && gated {
			n.r.t.Errorf("the handler was asked for %s, which is shut", local)
		}
		return open
	}
	n.HandleTCP(func(q datapath.TCPRequest) {
		if !asked(q.Local()) {
			q.Refuse()
		} else if c, err := q.Accept(); err == nil {
			echo(c)
		}
	})
	n.HandleUDP(func(q datapath.UDPRequest) {
		if !asked(q.Local()) {
			q.Refuse()
		} else if c, err := q.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	})
}

// isShut expects both protocols to be refused there.
func (n *node) isShut(at netip.AddrPort) {
	n.r.t.Helper()
	if c, err := n.DialTCP(n.r.ctx(patience), at); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			_ = c.Close()
		}
		n.r.t.Errorf("TCP %s: %v, want ECONNREFUSED", at, err)
	}
	c := n.dialUDP(at.Addr(), at.Port())
	_, _ = c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		n.r.t.Errorf("UDP %s: %v, want ECONNREFUSED", at, err)
	}
}

// echoes expects both protocols to be answered there.
func (n *node) echoes(at netip.AddrPort) {
	n.r.t.Helper()
	s, err := n.DialTCP(n.r.ctx(patience), at)
	if err != nil {
		n.r.t.Fatalf("TCP %s: %v", at, err)
	}
	_ = s.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(s, "words")
	_ = s.CloseWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != "words" {
		n.r.t.Fatalf("TCP %s: got %q, %v", at, got, err)
	}
	_ = s.Close()
	c := n.dialUDP(at.Addr(), at.Port())
	_, _ = c.Write([]byte("words"))
	buf := make([]byte, 10)
	if got, err := c.Read(buf); err != nil || string(buf[:got]) != "words" {
		n.r.t.Fatalf("UDP %s: got %q, %v", at, buf[:got], err)
	}
	_ = c.Close()
}

// testOpenAtOneAddress opens ports at some of an interface's addresses alone, as Services have them.
func testOpenAtOneAddress(t *testing.T, r *room) {
	a, b := r.open(1), r.open(2)
	other4, other6 := inner4(200), inner6(200)
	b.set(datapath.Interface{Addresses: append(b.iface(mtu).Addresses, hostPrefix(other4), hostPrefix(other6)), MTU: mtu})
	way := b.as()
	way.AllowedIPs = append(way.AllowedIPs, hostPrefix(other4), hostPrefix(other6))
	a.update(way)
	b.update(a.as())
	at := netip.AddrPortFrom
	b.openAt(at(other4, 80), at(other6, 80), at(b.v4, 81), at(b.v6, 82))
	for _, open := range []netip.AddrPort{at(other4, 80), at(other6, 80), at(b.v4, 81), at(b.v6, 82)} {
		a.echoes(open)
	}
	for _, shut := range []netip.AddrPort{at(b.v4, 80), at(b.v6, 80), at(other4, 81), at(b.v6, 81), at(b.v4, 82), at(other6, 82), at(other4, 83)} {
		a.isShut(shut)
	}
	b.openAt(at(b.v4, 80), at(other4, 81))
	a.echoes(at(b.v4, 80))
	a.echoes(at(other4, 81))
	for _, shut := range []netip.AddrPort{at(other4, 80), at(other6, 80), at(b.v4, 81), at(b.v6, 82)} {
		a.isShut(shut)
	}
}

// testManyAddresses has as many as a gateway that answers for as many Services as there may be, each with some ports.
func testManyAddresses(t *testing.T, r *room) {
	a, b := r.open(1), r.open(2)
	a.update(func() datapath.Peer { p := b.as(); p.AllowedIPs = prefixes("10.9.0.0/16", "fd09::/64"); return p }())
	b.update(a.as())
	const services, ports = 64, 12
	all := b.iface(mtu).Addresses
	var open []netip.AddrPort
	for i := range services {
		for _, ip := range []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.9.1.%d", i)), netip.MustParseAddr(fmt.Sprintf("fd09::1:%x", i))} {
			all = append(all, hostPrefix(ip))
			for p := range uint16(ports) {
				open = append(open, netip.AddrPortFrom(ip, 1000+p))
			}
		}
	}
	b.set(datapath.Interface{Addresses: all, MTU: mtu})
	b.openAt(open...)
	for _, i := range []int{0, len(open) / 2, len(open) - ports - 1, len(open) - 1} {
		a.echoes(open[i])
	}
	a.isShut(netip.AddrPortFrom(b.v4, 1000))
	a.isShut(netip.AddrPortFrom(open[0].Addr(), 1000+ports))
	b.set(b.iface(mtu))
	b.openAt(netip.AddrPortFrom(b.v4, 1000))
	a.echoes(netip.AddrPortFrom(b.v4, 1000))
	r.unreachableAt(a, open[0], "after its address went")
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
