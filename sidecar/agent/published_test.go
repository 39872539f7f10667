package agent

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// A gateway answers for a Service at the Service's own address, from there into the tunnel; for its ports and nothing else, and only as
// long as it is told to. A target that is the pod itself is never dialled.
func TestPublished(t *testing.T) {
	l := newLab(t)
	seen := l.serveFar(t)
	var public key.Public
	active := make(chan struct{})
	close(active)
	l.opts.Active, l.opts.Relays, l.opts.KeyFile = active, true, filepath.Join(t.TempDir(), "private")
	must(t, os.WriteFile(l.opts.KeyFile, []byte(key.NewPrivate().Reveal()+"\n"), 0o600))
	vip := netip.MustParseAddr("10.7.0.200")
	l.start(t, func(m *member) { public = m.public })
	must(t, l.far.UpdatePeers([]datapath.Peer{{PublicKey: public, AllowedIPs: []netip.Prefix{memberAddress, netip.PrefixFrom(vip, 32)}}}, nil))
	s := l.c.next(t, "")
	config := func(published ...wire.Published) wire.Config {
		c := l.config()
		c.Inbound, c.Interface.Hub, c.Peers[0].Outside, c.Published = nil, true, true, published
		c.Interface.Addresses = append(c.Interface.Addresses, netip.PrefixFrom(vip, 32))
		c.Sort()
		return c
	}
	web := wire.Published{ServiceID: wire.ServiceID{Name: "web", Port: 80, Protocol: wire.TCP}, Addresses: []netip.Addr{vip}, Everyone: true,
		Inside: []netip.AddrPort{netip.AddrPortFrom(farAddress.Addr(), 8080)}}
	dns := wire.Published{ServiceID: wire.ServiceID{Name: "web", Port: 53, Protocol: wire.UDP}, Addresses: []netip.Addr{vip}, Everyone: true,
		Inside: []netip.AddrPort{netip.AddrPortFrom(farAddress.Addr(), 5353)}}
	self := wire.Published{ServiceID: wire.ServiceID{Name: "web", Port: 81, Protocol: wire.TCP}, Addresses: []netip.Addr{vip}, Everyone: true}
	for _, a := range ownAddresses(t) {
		self.Outside = append(self.Outside, netip.AddrPortFrom(a, l.echo))
	}
	first := config(dns, web, self)
	s.send(t, snapshot(first))
	l.c.reported(t, true)
	tcp := func(port uint16) (net.Conn, error) {
		c, err := l.far.DialTCP(t.Context(), netip.AddrPortFrom(vip, port))
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	var c net.Conn
	eventually(t, "the Service answers", func() (err error) {
		if c, err = tcp(80); err != nil {
			return err
		}
		return hello(c)
	})
	defer c.Close()
	if from := <-seen; from.Addr() != memberAddress.Addr() {
		t.Errorf("its target sees %s, want the gateway's %s", from, memberAddress)
	}
	u, err := l.far.DialUDP(t.Context(), netip.AddrPortFrom(vip, 53))
	must(t, err)
	defer u.Close()
	eventually(t, "its datagrams are answered", func() error { return hello(u) })
	for _, port := range []uint16{81, 53, 8080, l.echo, 51821} {
		if c, err := tcp(port); err == nil {
			_ = c.Close()
			t.Errorf("port %d is open", port)
		}
	}
	if len(self.Outside) > 0 && !strings.Contains(l.log.String(), "the pod's own address") {
		t.Error("nothing is said of the target that is the pod itself")
	}
	s.send(t, delta(first, config(dns)))
	eventually(t, "what is not published any more is cut", func() error {
		if hello(c) == nil {
			return errors.New("it goes on")
		}
		return nil
	})
	must(t, hello(u))
	if c, err := tcp(80); err == nil {
		_ = c.Close()
		t.Error("it is open still")
	}
	l.stop(t)
}

// ownAddresses are this machine's that a target could have.
func ownAddresses(t *testing.T) (out []netip.Addr) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, n := range all {
		if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().IsGlobalUnicast() && p.Addr().Is4() {
			return []netip.Addr{p.Addr()}
		}
	}
	return nil
}

// A member's pod answers for nobody, even if it is told to.
func TestMembersDoNotPublish(t *testing.T) {
	m := &member{}
	var d desired
	m.translatePublished(&d, wire.Config{Published: []wire.Published{{ServiceID: wire.ServiceID{Name: "web", Port: 80, Protocol: wire.TCP}, Addresses: []netip.Addr{memberAddress.Addr()}}}})
	if len(d.services)+len(d.published)+len(d.publishedAt) > 0 {
		t.Errorf("%+v", d)
	}
}

// At a Service's own address a peer reaches the Service's ports, if all may or it is granted the Service; elsewhere what it is granted there.
func TestAdmit(t *testing.T) {
	addr := netip.MustParseAddr
	vip, own, inside, granted, other, stranger := addr("10.7.0.200"), addr("10.7.0.254"), addr("10.7.0.3"), addr("10.7.0.99"), addr("10.7.0.98"), addr("10.9.0.1")
	id := func(name string, port uint16) wire.ServiceID {
		return wire.ServiceID{Name: name, Port: port, Protocol: wire.TCP}
	}
	one := func(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, 32)} }
	d := (&member{Options: Options{Relays: true}}).translate(wire.Config{
		Interface: wire.Interface{Hub: true, MTU: 1420, Addresses: append(one(vip), one(own)...)},
		Peers: []wire.Peer{{PublicKey: key.Public{1}, AllowedIPs: one(inside)}, {PublicKey: key.Public{2}, AllowedIPs: one(granted), Outside: true},
			{PublicKey: key.Public{3}, AllowedIPs: one(other), Outside: true}},
		Granted: []wire.Port{{Port: 53, Protocol: wire.UDP}},
		Grants:  []wire.Grant{{Sources: one(granted), Services: []wire.ServiceID{id("web", 443)}}},
		Published: []wire.Published{{ServiceID: id("web", 80), Addresses: []netip.Addr{vip}, Everyone: true},
			{ServiceID: id("web", 443), Addresses: []netip.Addr{vip}}},
	})
	for _, c := range []struct {
		src, at  netip.Addr
		port     uint16
		protocol relay.Protocol
		want     bool
	}{
		{other, vip, 80, relay.TCP, true},
		{other, vip, 443, relay.TCP, false},
		{granted, vip, 80, relay.TCP, true},
		{granted, vip, 443, relay.TCP, true},
		{granted, own, 443, relay.TCP, false}, // granted at the Service's address alone
		{inside, vip, 443, relay.TCP, true},
		{stranger, vip, 80, relay.TCP, false},
		{other, vip, 80, relay.UDP, false},
		{other, vip, 53, relay.UDP, false}, // granted elsewhere
		{inside, vip, 81, relay.TCP, false},
		{other, own, 53, relay.UDP, true},
		{other, own, 80, relay.TCP, false},
		{inside, own, 81, relay.TCP, true},
	} {
		if got := d.admit(c.src, c.at, c.port, c.protocol); got != c.want {
			t.Errorf("%s at %s %d/%s: %t", c.src, c.at, c.port, c.protocol, got)
		}
	}
	if (*desired)(nil).admit(inside, vip, 80, relay.TCP) {
		t.Error("admitted before there is a configuration")
	}
}

// Each port is open where it is answered for, and at no other address; without Services of their own, wherever the interface is.
func TestPorts(t *testing.T) {
	addr := netip.MustParseAddr
	vip, own, own6 := addr("10.7.0.200"), addr("10.7.0.254"), addr("fd07::1")
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	d := desired{iface: datapath.Interface{Addresses: []netip.Prefix{host(vip), host(own), host(own6)}},
		inbound: []relay.Inbound{{Port: 53, Protocol: relay.TCP}, {Port: 53, Protocol: relay.UDP}, {Protocol: relay.TCP}}}
	if got := d.ports(); !slices.Equal(got.TCP, []uint16{53}) || !slices.Equal(got.UDP, []uint16{53}) || len(got.TCPAt)+len(got.UDPAt) > 0 {
		t.Errorf("%+v", got)
	}
	d.publishedAt = map[netip.Addr]bool{vip: true}
	d.services = []relay.Published{{Name: "web", Addresses: []netip.Addr{vip}, Port: 80, Protocol: relay.TCP}, {Name: "web", Addresses: []netip.Addr{vip}, Port: 53, Protocol: relay.UDP}}
	got := d.ports()
	if len(got.TCP)+len(got.UDP) > 0 ||
		!slices.Equal(got.TCPAt, []netip.AddrPort{netip.AddrPortFrom(own, 53), netip.AddrPortFrom(own6, 53), netip.AddrPortFrom(vip, 80)}) ||
		!slices.Equal(got.UDPAt, []netip.AddrPort{netip.AddrPortFrom(own, 53), netip.AddrPortFrom(own6, 53), netip.AddrPortFrom(vip, 53)}) {
		t.Errorf("%+v", got)
	}
}
