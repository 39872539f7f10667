//go:build linux

package tun_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// end is one of two peers on either side of a router.
type end struct {
	datapath.Datapath
	t    *testing.T
	priv key.Private
	host int
	addr [2]netip.Addr // by family
}

func openEnd(t *testing.T, l *hosts.Lab, host int) *end {
	t.Helper()
	e := &end{t: t, priv: key.NewPrivate(), host: host, addr: [2]netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.9.0.%d", host)),
		netip.MustParseAddr(fmt.Sprintf("fd09::%d", host))}}
	i := datapath.Interface{MTU: 1420, Addresses: []netip.Prefix{netip.PrefixFrom(e.addr[0], 32), netip.PrefixFrom(e.addr[1], 128)}}
	var err error
	if e.Datapath, err = l.Open(conformance.Options{Host: host, PrivateKey: e.priv, Interface: i}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func (e *end) meet(l *hosts.Lab, o *end, six bool) {
	e.t.Helper()
	err := e.UpdatePeers([]datapath.Peer{{PublicKey: o.priv.Public(), Endpoint: netip.AddrPortFrom(l.Outer(o.host, six), o.ListenPort()),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(o.addr[0], 32), netip.PrefixFrom(o.addr[1], 128)}}}, nil)
	if err != nil {
		e.t.Fatal(err)
	}
}

// path is what the end knows of the path to its peer.
func (e *end) path() datapath.PeerStats {
	p, err := e.Peers()
	if err != nil || len(p) != 1 {
		e.t.Fatalf("peers: %v, %v", p, err)
	}
	return p[0]
}

func (e *end) awaitPath(mtu int, state datapath.MTUState) {
	e.t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		p := e.path()
		if p.PathMTU == mtu && p.MTUState == state {
			return
		}
		if time.Now().After(until) {
			e.t.Fatalf("host %d: %d bytes, %s; want %d, %s", e.host, p.PathMTU, p.MTUState, mtu, state)
		}
	}
}

// serve sends without end on one port, takes what comes on another, and echoes datagrams.
func (e *end) serve() {
	const down, up, echo = 80, 81, 53
	if g, ok := e.Datapath.(datapath.Gate); ok {
		if err := g.OpenPorts(datapath.Ports{TCP: []uint16{down, up}, UDP: []uint16{echo}}); err != nil {
			e.t.Fatal(err)
		}
	}
	e.HandleTCP(func(q datapath.TCPRequest) {
		port := q.Local().Port()
		c, err := q.Accept()
		if err != nil {
			return
		}
		if port == down {
			_, _ = io.Copy(c, rand.Reader)
			return
		}
		_, _ = io.Copy(io.Discard, c)
	})
	e.HandleUDP(func(q datapath.UDPRequest) {
		c, err := q.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
	})
}

// transfer is a connection that carries without end, and how many bytes it has.
type transfer struct {
	name  string
	bytes atomic.Int64
}

func (e *end) transfer(to *end, port uint16, six int) *transfer {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := e.DialTCP(ctx, netip.AddrPortFrom(to.addr[six], port))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = c.Close() })
	x := &transfer{name: fmt.Sprintf("port %d of %s", port, to.addr[six])}
	go func() {
		b := make([]byte, 32<<10)
		for {
			var n int
			if port == 80 {
				n, err = c.Read(b)
			} else {
				n, err = c.Write(b)
			}
			x.bytes.Add(int64(n))
			if err != nil {
				return
			}
			time.Sleep(time.Millisecond) // the machine has others to serve
		}
	}()
	return x
}

// goOn fails the test unless the transfer carries much more than what waits in buffers.
func (x *transfer) goOn(t *testing.T) {
	t.Helper()
	goal := x.bytes.Load() + 12<<20
	for until := time.Now().Add(60 * time.Second); x.bytes.Load() < goal; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: %d bytes are missing of those that should follow", x.name, goal-x.bytes.Load())
		}
	}
}

// TestPathThatShrinks lowers the MTU of the link beyond a router under running transfers. They go on, whether the router says so or not.
func TestPathThatShrinks(t *testing.T) {
	hosts.Need(t)
	for _, c := range []struct {
		name  string
		open  conformanceOpeners
		six   bool
		hush  bool
		outer int // bytes
		inner int
		state datapath.MTUState
	}{
		{"Netstack over IPv4, silent", conformanceOpeners{openNetstack, openNetstack}, false, true, 1400, 1328, datapath.MTUVerified},
		{"Netstack over IPv6, silent", conformanceOpeners{openNetstack, openNetstack}, true, true, 1380, 1296, datapath.MTUVerified},
		{"TUN over IPv4, silent", conformanceOpeners{openTUN, openTUN}, false, true, 1400, 1328, datapath.MTUVerified},
		{"TUN over IPv6, silent", conformanceOpeners{openTUN, openTUN}, true, true, 1380, 1296, datapath.MTUVerified},
		{"TUN with Netstack over IPv4, said", conformanceOpeners{openNetstack, openTUN}, false, false, 1400, 1328, datapath.MTUVerified},
		{"less than IPv6 needs, silent", conformanceOpeners{openNetstack, openTUN}, false, true, 1300, 1232, datapath.MTUBlackHole},
		{"less than IPv6 needs over IPv6, said", conformanceOpeners{openTUN, openNetstack}, true, false, 1280, 1200, datapath.MTUBlackHole},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := hosts.New(t, c.open.open)
			l.Router(t)
			a, b := openEnd(t, l, 1), openEnd(t, l, 2)
			a.meet(l, b, c.six)
			b.meet(l, a, c.six)
			b.serve()
			if c.hush {
				if err := l.Hush(); err != nil {
					t.Fatal(err)
				}
			}
			all := []*transfer{a.transfer(b, 80, 0), a.transfer(b, 81, 1)}
			for _, x := range all {
				x.goOn(t)
			}
			a.awaitPath(1420, datapath.MTUVerified)
			if err := l.SetPathMTU(c.outer); err != nil {
				t.Fatal(err)
			}
			for _, x := range all {
				x.goOn(t)
			}
			a.awaitPath(c.inner, c.state)
			b.awaitPath(c.inner, c.state)
			a.datagrams(b, 1372) // in fragments
			for _, x := range []*transfer{a.transfer(b, 80, 1), a.transfer(b, 81, 0)} {
				x.goOn(t)
			}
		})
	}
}

// datagrams sends one that long to each family's address until it comes back: one alone may be lost.
func (e *end) datagrams(to *end, size int) {
	e.t.Helper()
	for six := range 2 {
		c, err := e.DialUDP(context.Background(), netip.AddrPortFrom(to.addr[six], 53))
		if err != nil {
			e.t.Fatal(err)
		}
		b := make([]byte, size+1)
		n := 0
		for range 10 {
			_, _ = c.Write(b[:size])
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			if n, err = c.Read(b); n == size {
				break
			}
		}
		if n != size {
			e.t.Errorf("a datagram of %d bytes to %s does not come back: %v", size, to.addr[six], err)
		}
		_ = c.Close()
	}
}
