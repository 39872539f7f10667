//go:build linux

package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/kernel"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// spokes are a hub on the first host, a member on the second, and an outside peer on the third. All are the kernel's.
type spokes struct {
	t               *testing.T
	lab             *hosts.Lab
	hub             *kernel.Device
	member, outside spoke
}

type spoke struct {
	datapath.Datapath
	host int
	key  key.Private
	addr [2]netip.Addr // IPv4, IPv6
}

func (s *spoke) ranges() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(s.addr[0], 32), netip.PrefixFrom(s.addr[1], 128)}
}

func everything() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
}

// newSpokes makes them. What the others may reach through the hub is everything.
func newSpokes(t *testing.T, before func(*hosts.Lab)) *spokes {
	needKernel(t)
	s := &spokes{t: t}
	s.lab = hosts.New(t, openKernel)
	if before != nil {
		before(s.lab)
	}
	open := func(host int) spoke {
		x := spoke{host: host, key: key.NewPrivate(), addr: [2]netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.9.0.%d", host)), netip.MustParseAddr(fmt.Sprintf("fd09::%d", host))}}
		i := datapath.Interface{Addresses: x.ranges(), MTU: 1420, Hub: host == 1}
		var err error
		if host == 1 {
			s.lab.Do(1, func() {
				s.hub, err = kernel.Open(kernel.Options{Name: "wg0", PrivateKey: x.key, Interface: i, Apart: true})
			})
			x.Datapath = s.hub
		} else {
			x.Datapath, err = s.lab.Open(conformance.Options{Host: host, PrivateKey: x.key, Interface: i})
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = x.Close() })
		return x
	}
	hub := open(1)
	s.member, s.outside = open(2), open(3)
	at := func(x *spoke) netip.AddrPort { return netip.AddrPortFrom(s.lab.Outer(x.host, false), x.ListenPort()) }
	for _, x := range []*spoke{&s.member, &s.outside} {
		s.must(s.hub.UpdatePeers([]datapath.Peer{{PublicKey: x.key.Public(), Endpoint: at(x), AllowedIPs: x.ranges(), Outside: x == &s.outside}}, nil))
		s.must(x.UpdatePeers([]datapath.Peer{{PublicKey: hub.key.Public(), Endpoint: at(&hub), AllowedIPs: everything()}}, nil))
	}
	return s
}

func (s *spokes) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *spokes) drops(reason string) uint64 {
	s.t.Helper()
	n, ok := s.hub.Drops()[reason]
	if !ok {
		s.t.Fatalf("%s is not counted", reason)
	}
	return n
}

// socket is a UDP socket on a spoke's host, at its address and no other.
func (s *spokes) socket(x *spoke, six int) *net.UDPConn {
	s.t.Helper()
	var c *net.UDPConn
	var err error
	s.lab.Do(x.host, func() { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(x.addr[six], 0))) })
	s.must(err)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// sink counts the bytes of datagrams that come to a port of a spoke.
func (s *spokes) sink(x *spoke) *atomic.Int64 {
	s.t.Helper()
	s.must(x.Datapath.(datapath.Gate).OpenPorts(datapath.Ports{UDP: []uint16{53}}))
	var n atomic.Int64
	x.HandleUDP(func(q datapath.UDPRequest) {
		c, err := q.Accept()
		if err != nil {
			return
		}
		for b := make([]byte, 2000); ; {
			m, err := c.Read(b)
			if err != nil {
				return
			}
			n.Add(int64(m))
		}
	})
	return &n
}

// A hub is a router: who sends a packet that has made all its hops does not get it passed on.
func TestHubHops(t *testing.T) {
	s := newSpokes(t, nil)
	got := s.sink(&s.outside)
	for six := range 2 {
		c := s.socket(&s.member, six)
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.outside.addr[six], 53))
		hops := func(n int) {
			t.Helper()
			if six == 1 {
				s.must(ipv6.NewConn(c).SetHopLimit(n))
			} else {
				s.must(ipv4.NewConn(c).SetTTL(n))
			}
			_, err := c.WriteTo([]byte("x"), to)
			s.must(err)
		}
		before, dropped := got.Load(), s.drops("HopLimit")
		hops(2)
		eventually(t, "what has a hop left comes", func() bool { return got.Load() == before+1 })
		hops(1)
		eventually(t, "what has none is counted", func() bool { return s.drops("HopLimit") == dropped+1 })
		time.Sleep(100 * time.Millisecond)
		if got.Load() != before+1 {
			t.Error("a packet without hops was passed on")
		}
	}
}

// Whatever a peer sends to, the hub passes it on between outside peers and members and nowhere else: not to who is of its own kind, not into the
// hub's own network, not by another spelling of an address.
func TestHubLeadsNowhereElse(t *testing.T) {
	s := newSpokes(t, nil)
	// Whoever is behind these would get all there is, if it were passed on.
	greedy := datapath.Peer{PublicKey: s.member.key.Public(), AllowedIPs: append(s.member.ranges(), everything()...)}
	s.must(s.hub.UpdatePeers([]datapath.Peer{greedy}, nil))
	got := s.sink(&s.member)
	toMember := s.socket(&s.outside, 0)
	_, err := toMember.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.member.addr[0], 53)))
	s.must(err)
	eventually(t, "a member is reached", func() bool { return got.Load() == 1 })
	for _, to := range []string{"169.254.169.254", "224.0.0.5", "255.255.255.255", "240.0.0.1", "0.0.0.1", "ff02::1%wg0", "fe80::1%wg0", "::127.0.0.1"} {
		a := netip.MustParseAddr(to)
		six := 0
		if a.Is6() {
			six = 1
		}
		c := s.socket(&s.outside, six)
		before := s.received(&s.member)
		dropped := s.drops("NotForwarded")
		if _, err := c.WriteTo(make([]byte, 1000), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 53))); err != nil {
			t.Logf("%s cannot even be sent to: %v", to, err)
			continue
		}
		time.Sleep(100 * time.Millisecond)
		if n := s.received(&s.member) - before; n > 500 {
			t.Errorf("%s led to the member: %d bytes", to, n)
		}
		t.Logf("%s: %d packets were dropped", to, s.drops("NotForwarded")-dropped)
	}
	if s.drops("NotForwarded") == 0 {
		t.Error("nothing was counted")
	}
	c := s.socket(&s.member, 0) // its own kind: the member's range holds it too, so that WireGuard would send it back
	before := s.received(&s.member)
	_, err = c.WriteTo(make([]byte, 1000), &net.UDPAddr{IP: net.IPv4(10, 8, 0, 1), Port: 53})
	s.must(err)
	time.Sleep(100 * time.Millisecond)
	if n := s.received(&s.member) - before; n > 500 {
		t.Errorf("a member got what a member sent: %d bytes", n)
	}
}

// received is how many bytes have come to a spoke.
func (s *spokes) received(x *spoke) uint64 {
	s.t.Helper()
	p, err := x.Peers()
	s.must(err)
	return p[0].RxBytes
}

// What an outside peer sends, and what is sent to it, is held to a bandwidth, all its addresses together.
func TestHubLimits(t *testing.T) {
	const bandwidth, sent = 1e6, 3 << 20 // 125 kB a second, and as much at once
	s := newSpokes(t, nil)
	got := map[*spoke]*atomic.Int64{&s.member: s.sink(&s.member), &s.outside: s.sink(&s.outside)}
	from := map[*spoke][2]*net.UDPConn{}
	for x := range got {
		from[x] = [2]*net.UDPConn{s.socket(x, 0), s.socket(x, 1)}
	}
	flood := func(by, to *spoke) (n int64, took time.Duration) {
		t.Helper()
		before, began := got[to].Load(), time.Now()
		for i := range sent / 1200 {
			_, err := from[by][i%2].WriteTo(make([]byte, 1200), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.addr[i%2], 53)))
			s.must(err)
			time.Sleep(200 * time.Microsecond) // what queues hold, or else they lose it
		}
		time.Sleep(300 * time.Millisecond)
		return got[to].Load() - before, time.Since(began)
	}
	for name, way := range map[string]struct {
		from, to *spoke
		counter  string
	}{"from it": {&s.outside, &s.member, "ReceiveLimit"}, "to it": {&s.member, &s.outside, "SendLimit"}} {
		s.must(s.hub.SetLimits(datapath.Limits{Bandwidth: 1e9})) // which is not reached, and changes under what comes
		free, _ := flood(way.from, way.to)
		s.must(s.hub.SetLimits(datapath.Limits{Bandwidth: bandwidth}))
		before := s.drops(way.counter)
		held, took := flood(way.from, way.to)
		most := int64(bandwidth/8*(took.Seconds()+1)) + 128<<10
		t.Logf("%s: %d of %d bytes without a limit, %d in %s with one, which allows %d", name, free, sent, held, took, most)
		if held > most || held < most/4 || free < 2*held && free < sent*3/4 {
			t.Errorf("%s: %d bytes of %d with a limit of %d, %d without one", name, held, sent, most, free)
		}
		if s.drops(way.counter) == before {
			t.Errorf("%s: %s counts nothing", name, way.counter)
		}
	}
}

// Peers come and go, with ranges around and within those of others, and nobody else loses a packet.
func TestHubChangesDisturbNobody(t *testing.T) {
	s := newSpokes(t, nil)
	wide := datapath.Peer{PublicKey: s.outside.key.Public(), AllowedIPs: append(s.outside.ranges(), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")), Outside: true}
	s.must(s.hub.UpdatePeers([]datapath.Peer{wide}, nil))
	s.must(s.member.Datapath.(datapath.Gate).OpenPorts(datapath.Ports{UDP: []uint16{53}}))
	s.member.HandleUDP(func(q datapath.UDPRequest) {
		if c, err := q.Accept(); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan int)
	for six := range 2 {
		go func() {
			n := 0
			defer func() { asked <- n }()
			c, err := s.outside.DialUDP(context.Background(), netip.AddrPortFrom(s.member.addr[six], 53))
			if err != nil {
				t.Error(err)
				return
			}
			for b := make([]byte, 100); ctx.Err() == nil; n++ {
				_, _ = c.Write([]byte(fmt.Sprint(n)))
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
				if m, err := c.Read(b); err != nil || string(b[:m]) != fmt.Sprint(n) {
					t.Errorf("question %d was not answered: %q, %v", n, b[:m], err)
					return
				}
			}
		}()
	}
	var keys []key.Public
	for i := range 60 {
		p := datapath.Peer{PublicKey: key.NewPrivate().Public(), Outside: i%2 == 0, AllowedIPs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.9.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd09:%d::/32", i+1))}}
		s.must(s.hub.UpdatePeers([]datapath.Peer{p}, nil))
		keys = append(keys, p.PublicKey)
		if i%3 == 0 {
			s.must(s.hub.UpdatePeers(nil, keys[:1]))
			keys = keys[1:]
		}
	}
	var many []datapath.Peer
	for i := range 2000 { // more than one transaction
		many = append(many, datapath.Peer{PublicKey: key.NewPrivate().Public(), Outside: true, AllowedIPs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.7.%d.%d/32", i/256, i%256))}})
	}
	s.must(s.hub.UpdatePeers(many, nil))
	s.must(s.hub.UpdatePeers(nil, keys))
	stop()
	for range 2 {
		if n := <-asked; n < 10 {
			t.Errorf("only %d questions were asked meanwhile", n)
		}
	}
}

// The path to an outside peer becomes shorter, and nobody says so, nor do the ends find out. Connections that are opened afterwards carry: the hub has
// seen that packets go that way which are long, and found out, and has TCP announce what the path takes.
func TestHubTellsTCPOfShortPaths(t *testing.T) {
	s := newSpokes(t, func(l *hosts.Lab) {
		l.Router(t)
		if err := errors.Join(l.Hush(), l.LoseFragments(3), l.SetPathMTUTo(3, 1400)); err != nil {
			t.Fatal(err)
		}
		for host := 2; host <= 3; host++ { // these may ask for no echoes
			l.Do(host, func() {
				if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("1 0"), 0o600); err != nil {
					t.Error(err)
				}
			})
		}
	})
	s.must(s.outside.Datapath.(datapath.Gate).OpenPorts(datapath.Ports{TCP: []uint16{80}}))
	s.outside.HandleTCP(func(q datapath.TCPRequest) {
		if c, err := q.Accept(); err == nil {
			n, _ := io.Copy(io.Discard, c)
			_, _ = fmt.Fprint(c, n)
			_ = c.Close()
		}
	})
	for six := range 2 {
		eventually(t, "a connection carries", func() bool {
			c, err := s.member.DialTCP(t.Context(), netip.AddrPortFrom(s.outside.addr[six], 80))
			if err != nil {
				return false
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = c.Write(make([]byte, 200_000))
			_ = c.CloseWrite()
			got, _ := io.ReadAll(c)
			return string(got) == "200000"
		})
	}
}

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}
