package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/dns"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// serveNames has the host at the other end answer for a zone on port 53, by UDP and by TCP, and echo on all other ports.
func (l *lab) serveNames(zone *atomic.Pointer[dns.Zone]) {
	l.far.HandleUDP(func(q datapath.UDPRequest) {
		c, err := q.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1500)
		for {
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			n, err := c.Read(b)
			if err != nil {
				return
			}
			out := b[:n]
			if q.Local().Port() == 53 {
				if out = zone.Load().Answer(out, 512); bytes.Contains(out, []byte("long")) {
					out[2] |= 2 // truncated: take TCP
				}
			}
			_, _ = c.Write(out)
		}
	})
	l.far.HandleTCP(func(q datapath.TCPRequest) {
		s, err := q.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		if q.Local().Port() != 53 {
			_, _ = io.Copy(s, s)
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(s, size[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(s, b); err != nil {
			return
		}
		out := zone.Load().Answer(b, 65535)
		_, _ = s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	})
}

// corp is a zone whose good hosts are at the other end.
func corp() *dns.Zone {
	far := farAddress.Addr()
	return &dns.Zone{Domain: "corp.internal", Hosts: map[string][]netip.Addr{"db": {far}, "other": {far}, "none": nil, "long": {far},
		"loop": {netip.MustParseAddr("127.0.0.1")}, "member": {memberAddress.Addr()}, "gateway": {netip.MustParseAddr("10.7.0.254")}, "away": {netip.MustParseAddr("10.8.0.1")}}}
}

// lookups has names of corp.internal looked up at the other end, which is a peer that has a gateway's address too.
func (l *lab) lookups() wire.Config {
	c := l.config()
	c.Peers[0].Outside = true
	c.Peers[0].AllowedIPs = []netip.Prefix{farAddress, netip.MustParsePrefix("10.7.0.254/32")}
	c.Lookups = &wire.Lookups{Own: []netip.Prefix{netip.MustParsePrefix("10.7.0.128/25")},
		Zones: []wire.DNSZone{{Domain: "corp.internal", Servers: []netip.AddrPort{netip.AddrPortFrom(farAddress.Addr(), 53)}}}}
	return c
}

// connectBy asks the HTTP proxy for a destination; the answer's status, and the connection if that is 200.
func connectBy(proxy netip.AddrPort, to string) (net.Conn, int, error) {
	c, err := net.Dial("tcp", proxy.String())
	if err != nil {
		return nil, 0, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", to); err != nil {
		return nil, 0, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, 0, err
	}
	return c, r.StatusCode, nil
}

// Names lead to outside peers: not to members, nor to what is the tunnel's own of a gateway's peer, nor to ourselves.
func TestWhereNamesLead(t *testing.T) {
	c := wire.Config{Interface: wire.Interface{Addresses: []netip.Prefix{memberAddress}},
		Peers: []wire.Peer{{PublicKey: key.Public{1}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.7.0.9/32")}},
			{PublicKey: key.Public{2}, AllowedIPs: []netip.Prefix{farAddress}, Outside: true}}}
	if got := lookups(c); len(got.Zones)+len(got.Within) > 0 {
		t.Errorf("without zones: %+v", got)
	}
	c.Lookups = &wire.Lookups{Zones: []wire.DNSZone{{Domain: "corp.internal"}}, Own: []netip.Prefix{netip.MustParsePrefix("10.7.0.128/25")}}
	got := lookups(c)
	if !slices.Equal(got.Within, []netip.Prefix{farAddress}) || !slices.Equal(got.Except, []netip.Prefix{c.Lookups.Own[0], memberAddress}) || !got.IPv4 || got.IPv6 {
		t.Errorf("%+v", got)
	}
}

// A member looks hosts without an address up at the other end, through the tunnel; so do its proxies with names of the zone, and with no
// others. What leads anywhere but to an outside peer is refused.
func TestLookups(t *testing.T) {
	l := newLab(t)
	var zone atomic.Pointer[dns.Zone]
	zone.Store(corp())
	l.serveNames(&zone)
	at := netip.MustParseAddr("127.77.0.1")
	l.opts.Names = map[string]netip.Addr{"db.corp.internal": at, "loop.corp.internal": at}
	l.opts.HTTPConnect = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t, "tcp"))
	l.start(t)
	s := l.c.next(t, "")
	service := func(host, network string) wire.Service {
		return wire.Service{ServiceID: wire.ServiceID{Name: host, Port: freePort(t, network), Protocol: wire.Protocol(strings.ToUpper(network))}, Lookup: true}
	}
	tcp, udp, loop := service("db.corp.internal", "tcp"), service("db.corp.internal", "udp"), service("loop.corp.internal", "tcp")
	first := l.lookups()
	first.Services = []wire.Service{tcp, udp, loop}
	first.Sort()
	s.send(t, snapshot(first))
	l.c.reported(t, true)
	carried := func(network string, s wire.Service) error {
		c, err := net.DialTimeout(network, netip.AddrPortFrom(at, s.Port).String(), 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		return hello(c)
	}
	eventually(t, "a connection to a host without an address", func() error { return carried("tcp", tcp) })
	eventually(t, "datagrams to it", func() error { return carried("udp", udp) })
	if carried("tcp", loop) == nil {
		t.Error("a host that leads to loopback is carried")
	}
	for name, want := range map[string]int{"other": 200, "db": 200, "long": 200, "none": 502, "unknown": 502, "loop": 502, "member": 502, "gateway": 502, "away": 502} {
		c, status, err := connectBy(l.opts.HTTPConnect, name+".corp.internal:80")
		if err != nil || status != want {
			t.Errorf("%s: %d, %v, want %d", name, status, err, want)
		}
		if err == nil && status == 200 {
			must(t, hello(c))
			_ = c.Close()
		}
	}
	for _, name := range []string{"example.com", "localhost", "acorp.internal", "kubernetes.default.svc"} {
		if _, status, err := connectBy(l.opts.HTTPConnect, name+":80"); err != nil || status != http.StatusForbidden {
			t.Errorf("%s: %d, %v", name, status, err)
		}
	}
	_, text, err := l.health("/metrics")
	for _, want := range []string{`tenantwire_dns_lookups_total{result="found"} `, `tenantwire_dns_left_out_total `, `reason="NameNotFound"`} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("metrics lack %s (%v)", want, err)
		}
	}

	zone.Store(&dns.Zone{Domain: "corp.internal"})
	second := l.config() // nothing is looked up any more, nor is what was found
	s.send(t, delta(first, second))
	eventually(t, "the end of it", func() error {
		if _, status, err := connectBy(l.opts.HTTPConnect, "db.corp.internal:80"); err != nil || status != http.StatusForbidden {
			return fmt.Errorf("%d, %w", status, err)
		}
		if carried("tcp", tcp) == nil {
			return errors.New("still carried")
		}
		return nil
	})
	l.stop(t)
}

// A gateway does the same for pods without a sidecar.
func TestLookupsOfRelays(t *testing.T) {
	l := newLab(t)
	var zone atomic.Pointer[dns.Zone]
	zone.Store(corp())
	l.serveNames(&zone)
	l.opts.Relays, l.opts.KeyFile = true, filepath.Join(t.TempDir(), "private")
	must(t, os.WriteFile(l.opts.KeyFile, []byte(key.NewPrivate().Reveal()+"\n"), 0o600))
	l.start(t)
	s := l.c.next(t, "")
	c := l.lookups()
	c.Interface.Hub, c.Inbound, c.Clients = true, nil, []netip.Addr{netip.MustParseAddr("127.0.0.2")}
	relay := func(host, network string) wire.Relay {
		return wire.Relay{Listen: freePort(t, network), ServiceID: wire.ServiceID{Name: host + ".corp.internal", Port: 80, Protocol: wire.Protocol(strings.ToUpper(network))}, Lookup: true}
	}
	tcp, udp, member := relay("db", "tcp"), relay("db", "udp"), relay("member", "tcp")
	c.Relays = []wire.Relay{tcp, udp, member}
	c.Sort()
	s.send(t, snapshot(c))
	l.c.reported(t, true)
	at := func(r wire.Relay) netip.AddrPort { return netip.AddrPortFrom(l.opts.PodIP, r.Listen) }
	eventually(t, "a connection", func() error { return asksFrom("127.0.0.2", "tcp", at(tcp)) })
	eventually(t, "datagrams", func() error { return asksFrom("127.0.0.2", "udp", at(udp)) })
	if asksFrom("127.0.0.2", "tcp", at(member)) == nil {
		t.Error("a host that leads to the tunnel's own address is carried")
	}
	if asksFrom("127.0.0.4", "tcp", at(tcp)) == nil {
		t.Error("a pod that is not listed is carried")
	}
	l.stop(t)
}
