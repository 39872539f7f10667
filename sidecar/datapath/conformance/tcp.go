package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

func testEcho(t *testing.T, r *room) {
	a, b := r.pair()
	b.accept(echo)
	families(t, b, func(r *room, to netip.Addr) {
		c := a.dial(to)
		if got, want := c.RemoteAddr().String(), netip.AddrPortFrom(to, 80).String(); got != want {
			r.t.Errorf("remote address %s, want %s", got, want)
		}
		a.say(to, "hello")
		a.say(to, "")
	})
}

// testOuterIPv6 has a tunnel over IPv6, whose header takes 20 bytes more of each message: with an MTU of 1420 nothing is left of an Ethernet's
// 1500. What is longer only the sender can cut.
func testOuterIPv6(t *testing.T, r *room) {
	a, b := r.open(1), r.open(2)
	a.update(b.at(true))
	b.update(a.at(true))
	b.accept(echo)
	b.echoUDP()
	families(t, b, func(r *room, to netip.Addr) {
		a.say(to, "hello")
		a.bulk(to)
		aroundMTU(r, a, b, a.dialUDP(to, namePort), to)
		a.bulk(to) // by packets that are longer than an Ethernet takes
		a.set(a.iface(mtu))
		b.set(b.iface(mtu))
	})
	for _, n := range []*node{a, b} {
		if p := n.peer(); !p.Endpoint.Addr().Is6() {
			t.Errorf("peer at %s, want IPv6", p.Endpoint)
		}
	}
}

// testHalfClose closes each direction first in turn; the other must go on, in full.
func testHalfClose(t *testing.T, r *room) {
	a, b := r.pair()
	families(t, b, func(r *room, to netip.Addr) {
		r.t.Run("client first", func(t *testing.T) { halfCloseClient(t, a, b, to) })
		r.t.Run("server first", func(t *testing.T) { halfCloseServer(t, a, b, to) })
	})
}

const halfCloseSize = 1 << 20

func halfCloseClient(t *testing.T, a, b *node, to netip.Addr) {
	got := make(chan []byte, 1)
	b.accept(func(c datapath.Stream) {
		in, _ := io.ReadAll(c)
		got <- in
		time.Sleep(50 * time.Millisecond) // the answer comes well after the FIN
		_, _ = c.Write(random(halfCloseSize, 2))
		_ = c.Close()
	})
	c := a.dial(to)
	_, _ = io.WriteString(c, "question")
	_ = c.CloseWrite()
	answer, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(answer, random(halfCloseSize, 2)) {
		t.Fatalf("%d bytes of the answer, %v", len(answer), err)
	}
	if in := <-got; string(in) != "question" {
		t.Fatalf("server read %q", in)
	}
}

func halfCloseServer(t *testing.T, a, b *node, to netip.Addr) {
	got := make(chan []byte, 1)
	b.accept(func(c datapath.Stream) {
		_, _ = io.WriteString(c, "banner")
		_ = c.CloseWrite()
		in, _ := io.ReadAll(c)
		got <- in
		_ = c.Close()
	})
	c := a.dial(to)
	if banner, err := io.ReadAll(c); err != nil || string(banner) != "banner" {
		t.Fatalf("got %q, %v", banner, err)
	}
	if _, err := c.Write(random(halfCloseSize, 4)); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if in := <-got; !bytes.Equal(in, random(halfCloseSize, 4)) {
		t.Fatalf("server read %d bytes", len(in))
	}
}

func testReset(t *testing.T, r *room) {
	a, b := r.pair()
	families(t, b, func(r *room, to netip.Addr) {
		r.t.Run("server aborts", func(t *testing.T) {
			b.accept(func(c datapath.Stream) { c.Abort() })
			c, err := a.DialTCP(r.ctx(patience), netip.AddrPortFrom(to, webPort))
			if err == nil { // a reset that is faster than the dial's return is the dial's error
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				_, err = c.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("got %v, want ECONNRESET", err)
			}
		})
		r.t.Run("client aborts", func(t *testing.T) {
			seen := make(chan error, 1)
			b.accept(func(c datapath.Stream) {
				_, _ = io.WriteString(c, "x")
				_, err := io.Copy(io.Discard, c)
				seen <- err
			})
			c := a.dial(to)
			_, _ = c.Read(make([]byte, 1)) // both ends have it open
			c.Abort()
			if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("read: %v, want ECONNRESET", err)
			}
		})
	})
}

// refused expects what a peer sees of a refusal: with asked false nobody was asked, or is asked first.
func refused(r *room, a *node, to netip.Addr, byHandlerAfterwards bool) {
	r.t.Helper()
	c, err := a.DialTCP(r.ctx(patience), netip.AddrPortFrom(to, 81))
	if byHandlerAfterwards && err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err = c.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
			return
		}
	}
	if byHandlerAfterwards && errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if !errors.Is(err, syscall.ECONNREFUSED) || byHandlerAfterwards {
		r.t.Fatalf("got %v, want a refusal (after the handshake: %v)", err, byHandlerAfterwards)
	}
}

func testRefused(t *testing.T, r *room) {
	a, b := r.pair()
	b.openTCP(81)
	t.Run("no handler", func(t *testing.T) {
		families(t, b, func(r *room, to netip.Addr) { refused(r, a, to, false) })
	})
	b.HandleTCP(func(q datapath.TCPRequest) { q.Refuse() })
	t.Run("by the handler", func(t *testing.T) {
		families(t, b, func(r *room, to netip.Addr) { refused(r, a, to, !b.Capabilities().AsksFirst) })
	})
	b.HandleTCP(nil)
	t.Run("no handler any more", func(t *testing.T) {
		families(t, b, func(r *room, to netip.Addr) { refused(r, a, to, false) })
	})
}

// testDefaultDeny holds a Gate to what it says: a port that is not open is refused by the kernel, whoever would have taken it, be it an
// application that listens on every address.
func testDefaultDeny(t *testing.T, r *room) {
	a, b := r.pair()
	b.accept(echo)
	a.say(b.v4, "open")
	var app net.Listener
	r.lab.Do(b.host, func() {
		app, _ = net.Listen("tcp", ":81") // in use on this machine: then it is shown without
	})
	if app != nil {
		defer app.Close()
	}
	families(t, b, func(r *room, to netip.Addr) { refused(r, a, to, false) })
	gate, ok := b.Datapath.(datapath.Gate)
	if !ok {
		return // it asks first, which testRefused has shown
	}
	if err := gate.OpenPorts(datapath.Ports{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.DialTCP(r.ctx(patience), netip.AddrPortFrom(b.v4, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("shut again: got %v, want ECONNREFUSED", err)
	}
	if err := gate.OpenPorts(datapath.Ports{TCP: []uint16{80}}); err != nil {
		t.Fatal(err)
	}
	a.say(b.v4, "open again")
}

// testAcceptDecides shows that the peer's connect does not complete before Accept, or, where the kernel completes it, that nothing the
// peer wrote meanwhile is lost.
func testAcceptDecides(t *testing.T, r *room) {
	a, b := r.pair()
	asked, release, done := make(chan datapath.TCPRequest), make(chan struct{}), make(chan struct{})
	b.openTCP(80)
	b.HandleTCP(func(q datapath.TCPRequest) {
		defer close(done)
		asked <- q
		<-release
		c, err := q.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		q.Refuse() // answered already: no effect
		if _, err := q.Accept(); err == nil {
			t.Error("a second Accept succeeded")
		}
		if got, want := c.LocalAddr().String(), netip.AddrPortFrom(b.v4, 80).String(); got != want {
			t.Errorf("local address %s, want %s", got, want)
		}
		echo(c)
	})
	said := make(chan error, 1)
	go func() {
		c, err := a.DialTCP(r.ctx(patience), netip.AddrPortFrom(b.v4, 80))
		if err != nil {
			said <- err
			return
		}
		if a := b.Capabilities(); a.AsksFirst {
			said <- nil
		}
		_, _ = io.WriteString(c, "early")
		_ = c.CloseWrite()
		got, err := io.ReadAll(c)
		if err == nil && string(got) != "early" {
			err = errors.New("got " + string(got))
		}
		_ = c.Close()
		said <- err
	}()
	q := <-asked
	if q.Local() != netip.AddrPortFrom(b.v4, 80) || q.Remote().Addr() != a.v4 {
		t.Errorf("request from %s to %s", q.Remote(), q.Local())
	}
	select {
	case err := <-said:
		t.Fatalf("answered before Accept: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	<-done
	if err := <-said; err != nil {
		t.Fatal(err)
	}
}

// testClientInAHurry writes and closes before the other end has woken from its handshake: nothing may be lost.
func testClientInAHurry(t *testing.T, r *room) {
	a, b := r.pair()
	got := make(chan string, 1)
	b.accept(func(c datapath.Stream) {
		in, err := io.ReadAll(c)
		if err != nil {
			in = []byte(err.Error())
		}
		got <- string(in)
		_ = c.Close()
	})
	for range short(300, 50) {
		c := a.dial(b.v4)
		_, _ = io.WriteString(c, "gone")
		_ = c.Close()
		if s := <-got; s != "gone" {
			t.Fatalf("server got %q", s)
		}
	}
}

// testDialFails dials what no peer owns. The machine itself may well reach some of it: the tunnel's sockets must not.
func testDialFails(t *testing.T, r *room) {
	a, b := r.pair()
	c, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if s, err := a.DialTCP(c, netip.MustParseAddrPort("10.9.0.99:80")); err == nil {
		t.Errorf("connected to nobody: %v", s.RemoteAddr())
	}
	for _, to := range []string{"127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "[fe80::1]:80", "224.0.0.1:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80", "10.9.0.2:0"} {
		if _, err := a.DialTCP(r.ctx(time.Second), netip.MustParseAddrPort(to)); err == nil {
			t.Errorf("dial %s succeeded", to)
		}
	}
	for _, six := range []bool{false, true} {
		var plain net.Listener
		outer := r.lab.Outer(b.host, six)
		r.lab.Do(b.host, func() {
			var err error
			if plain, err = net.Listen("tcp", netip.AddrPortFrom(outer, 0).String()); err != nil {
				t.Fatal(err)
			}
		})
		defer plain.Close()
		c, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if s, err := a.DialTCP(c, netip.MustParseAddrPort(plain.Addr().String())); err == nil {
			t.Errorf("left the tunnel: connected to %v", s.RemoteAddr())
		}
	}
}

// testOwnAddress dials the node's own address: it reaches its own handlers or nothing, whatever else listens there.
func testOwnAddress(t *testing.T, r *room) {
	a, _ := r.pair()
	a.accept(echo)
	families(t, a, func(r *room, to netip.Addr) {
		if a.Capabilities().OwnAddress {
			a.say(to, string(random(64<<10, 3)))
			return
		}
		if _, err := a.DialTCP(r.ctx(patience), netip.AddrPortFrom(to, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
			r.t.Errorf("got %v, want ECONNREFUSED", err)
		}
	})
}

func testDeadlines(t *testing.T, r *room) {
	a, b := r.pair()
	hold := make(chan struct{})
	defer close(hold)
	b.accept(func(datapath.Stream) { <-hold })
	c := a.dial(b.v4)
	isTimeout := func(err error) bool {
		var e net.Error
		return errors.As(err, &e) && e.Timeout()
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("read: %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(-time.Second))
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("read after the deadline: %v", err)
	}
	_ = c.SetDeadline(time.Time{})
	go func() { time.Sleep(30 * time.Millisecond); _ = c.Close() }()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read while it is closed: %v", err)
	}
}
