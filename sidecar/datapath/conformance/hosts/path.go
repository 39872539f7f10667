//go:build linux

package hosts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// PathCase is a path whose link beyond a router takes less all at once, under running transfers, and what the datapaths on both sides find.
type PathCase struct {
	Name          string
	Near, Far     Opener
	Six           bool // outer IPv6
	Hush          bool // the router says nothing of packets that are too big
	LoseFragments bool // no outer fragment arrives
	Outer         int  // what the link takes, bytes
	Inner         int  // what is found
	Regrows       bool // the link takes all again, which is found too
	State         datapath.MTUState
}

// ShrinkPaths runs cases: transfers go on, whether the router says so or not, and new ones do.
func ShrinkPaths(t *testing.T, cases []PathCase) {
	Need(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
}

func (c *PathCase) run(t *testing.T) {
	l := New(t, func(o conformance.Options) (datapath.Datapath, error) {
		if o.Host == 1 {
			return c.Near(o)
		}
		return c.Far(o)
	})
	l.Router(t)
	a, b := openEnd(t, l, 1), openEnd(t, l, 2)
	a.meet(l, b, c.Six)
	b.meet(l, a, c.Six)
	b.serve()
	if err := c.spoil(l); err != nil {
		t.Fatal(err)
	}
	all := []*transfer{a.transfer(b, 80, 0), a.transfer(b, 81, 1)}
	began := time.Now()
	goOn(t, all, 5*time.Minute)
	patience := min(time.Minute+5*time.Since(began), 4*time.Minute) // an emulated machine is slow, and may have little of a slow one
	a.awaitPath(1420, datapath.MTUVerified, patience)
	if err := l.SetPathMTU(c.Outer); err != nil {
		t.Fatal(err)
	}
	goOn(t, all, patience)
	a.awaitPath(c.Inner, c.State, patience)
	b.awaitPath(c.Inner, c.State, patience)
	if c.Regrows {
		if err := l.SetPathMTU(1500); err != nil {
			t.Fatal(err)
		}
		a.awaitPath(1420, datapath.MTUVerified, patience)
		b.awaitPath(1420, datapath.MTUVerified, patience)
	}
	for _, x := range all {
		_ = x.conn.Close() // or on an emulated machine they leave little to those that are new
	}
	a.datagrams(b, 1372) // in fragments
	goOn(t, []*transfer{a.transfer(b, 80, 1), a.transfer(b, 81, 0)}, patience)
}

func (c *PathCase) spoil(l *Lab) error {
	var errs []error
	if c.Hush {
		errs = append(errs, l.Hush())
	}
	if c.LoseFragments {
		errs = append(errs, l.LoseFragments(1), l.LoseFragments(2))
	}
	return errors.Join(errs...)
}

// end is one of two peers on either side of a router.
type end struct {
	datapath.Datapath
	t    testing.TB
	priv key.Private
	host int
	addr [2]netip.Addr // by family
}

func openEnd(t testing.TB, l *Lab, host int) *end {
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

func (e *end) meet(l *Lab, o *end, six bool) {
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

func (e *end) awaitPath(mtu int, state datapath.MTUState, patience time.Duration) {
	e.t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		p := e.path()
		if p.PathMTU == mtu && p.MTUState == state {
			return
		}
		if time.Now().After(until) {
			e.t.Fatalf("host %d: %d bytes, %s; want %d, %s after %s", e.host, p.PathMTU, p.MTUState, mtu, state, patience)
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
	conn  io.Closer
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
	x := &transfer{conn: c, name: fmt.Sprintf("port %d of %s", port, to.addr[six])}
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

// goOn fails the test unless each transfer carries much more than what waits in buffers.
func goOn(t testing.TB, all []*transfer, patience time.Duration) {
	t.Helper()
	const much = 12 << 20
	until := time.Now().Add(patience)
	for _, x := range all {
		for goal := x.bytes.Load() + much; x.bytes.Load() < goal; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%s: %d bytes are missing of %d that should follow within %s", x.name, goal-x.bytes.Load(), much, patience)
			}
		}
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
