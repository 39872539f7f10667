package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// families runs f for both of the node's addresses.
func families(t *testing.T, n *node, f func(t *testing.T, to netip.Addr)) {
	t.Run("v4", func(t *testing.T) { f(t, n.v4) })
	t.Run("v6", func(t *testing.T) { f(t, n.v6) })
}

func TestEcho(t *testing.T) {
	a, b := pair(t)
	accept(b, 80, echo)
	families(t, b, func(t *testing.T, to netip.Addr) {
		c := dial(t, a, to, 80)
		if got, want := c.RemoteAddr().String(), netip.AddrPortFrom(to, 80).String(); got != want {
			t.Errorf("remote address %s, want %s", got, want)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
	})
}

func TestOwnAddressStaysInside(t *testing.T) {
	a := open(t, 1)
	accept(a, 80, echo)
	families(t, a, func(t *testing.T, to netip.Addr) {
		c := dial(t, a, to, 80)
		want := random(1<<20, 3)
		go func() { _, _ = c.Write(want); _ = c.CloseWrite() }()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came back, %v", len(got), err)
		}
	})
}

// TestHalfClose closes each direction first in turn; the other must go on, in full.
func TestHalfClose(t *testing.T) {
	a, b := pair(t)
	const size = 1 << 20
	families(t, b, func(t *testing.T, to netip.Addr) {
		t.Run("client first", func(t *testing.T) {
			got := make(chan []byte, 1)
			accept(b, 80, func(c datapath.Stream) {
				in, _ := io.ReadAll(c)
				got <- in
				time.Sleep(50 * time.Millisecond) // the answer comes well after the FIN
				_, _ = c.Write(random(size, 2))
				_ = c.Close()
			})
			c := dial(t, a, to, 80)
			_, _ = c.Write([]byte("question"))
			_ = c.CloseWrite()
			answer, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(answer, random(size, 2)) {
				t.Fatalf("%d bytes of the answer, %v", len(answer), err)
			}
			if in := <-got; string(in) != "question" {
				t.Fatalf("server read %q", in)
			}
		})
		t.Run("server first", func(t *testing.T) {
			got := make(chan []byte, 1)
			accept(b, 80, func(c datapath.Stream) {
				_, _ = c.Write([]byte("banner"))
				_ = c.CloseWrite()
				in, _ := io.ReadAll(c)
				got <- in
				_ = c.Close()
			})
			c := dial(t, a, to, 80)
			if banner, err := io.ReadAll(c); err != nil || string(banner) != "banner" {
				t.Fatalf("got %q, %v", banner, err)
			}
			if _, err := c.Write(random(size, 4)); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			if in := <-got; !bytes.Equal(in, random(size, 4)) {
				t.Fatalf("server read %d bytes", len(in))
			}
		})
	})
}

func TestRefused(t *testing.T) {
	a, b := pair(t)
	for name, h := range map[string]func(datapath.TCPRequest){
		"nobody listens": nil,
		"by the handler": func(q datapath.TCPRequest) { q.Refuse() },
	} {
		b.HandleTCP(h)
		t.Run(name, func(t *testing.T) {
			families(t, b, func(t *testing.T, to netip.Addr) {
				_, err := a.DialTCP(ctx(t, 10*time.Second), netip.AddrPortFrom(to, 81))
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("got %v, want ECONNREFUSED", err)
				}
			})
		})
	}
	if n := b.Stats().RefusedTCP; n != 4 {
		t.Errorf("%d refusals counted, want 4", n)
	}
}

// TestAcceptDecides shows that the peer's connect does not complete before Accept.
func TestAcceptDecides(t *testing.T) {
	a, b := pair(t)
	asked, release, done := make(chan datapath.TCPRequest), make(chan struct{}), make(chan struct{})
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
		echo(c)
	})
	connected := make(chan error, 1)
	go func() {
		c, err := a.DialTCP(ctx(t, 20*time.Second), netip.AddrPortFrom(b.v4, 80))
		if err == nil {
			_ = c.Close()
		}
		connected <- err
	}()
	q := <-asked
	if q.Local() != netip.AddrPortFrom(b.v4, 80) || q.Remote().Addr() != a.v4 {
		t.Errorf("request from %s to %s", q.Remote(), q.Local())
	}
	select {
	case err := <-connected:
		t.Fatalf("connected before Accept: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	<-done
}

// TestClientInAHurry writes and closes before the other end has woken from its handshake: nothing may be lost.
func TestClientInAHurry(t *testing.T) {
	a, b := pair(t)
	got := make(chan string, 1)
	b.HandleTCP(func(q datapath.TCPRequest) {
		c, err := q.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		in, err := io.ReadAll(c)
		if err != nil {
			in = []byte(err.Error())
		}
		got <- string(in)
		_ = c.Close()
	})
	for range 300 {
		c := dial(t, a, b.v4, 80)
		_, _ = c.Write([]byte("gone"))
		_ = c.Close()
		if s := <-got; s != "gone" {
			t.Fatalf("server got %q", s)
		}
	}
}

func TestDialTimesOut(t *testing.T) {
	a, _ := pair(t)
	nobody := netip.MustParseAddrPort("10.9.0.99:80") // no peer has it
	c, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := a.DialTCP(c, nobody)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("got %v, want a timeout", err)
	}
	for _, to := range []string{"127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "[fe80::1]:80", "224.0.0.1:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80", "10.9.0.2:0"} {
		if _, err := a.DialTCP(ctx(t, time.Second), netip.MustParseAddrPort(to)); err == nil {
			t.Errorf("dial %s succeeded", to)
		}
	}
}

func TestAbortIsSeenAsReset(t *testing.T) {
	a, b := pair(t)
	families(t, b, func(t *testing.T, to netip.Addr) {
		t.Run("server aborts", func(t *testing.T) {
			accept(b, 80, func(c datapath.Stream) { c.Abort() })
			c := dial(t, a, to, 80)
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("read: %v, want ECONNRESET", err)
			}
		})
		t.Run("client aborts", func(t *testing.T) {
			seen := make(chan error, 1)
			accept(b, 80, func(c datapath.Stream) {
				_, _ = c.Write([]byte("x"))
				_, err := io.Copy(io.Discard, c)
				seen <- err
			})
			c := dial(t, a, to, 80)
			_, _ = c.Read(make([]byte, 1)) // both ends have it open
			c.Abort()
			if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("read: %v, want ECONNRESET", err)
			}
		})
	})
}

func TestDeadlines(t *testing.T) {
	a, b := pair(t)
	hold := make(chan struct{})
	defer close(hold)
	accept(b, 80, func(datapath.Stream) { <-hold })
	c := dial(t, a, b.v4, 80)
	isTimeout := func(err error) bool {
		var e net.Error
		return errors.As(err, &e) && e.Timeout()
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("read: %v", err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Write(make([]byte, 64<<20)); !isTimeout(err) { // nobody reads: it must block, then give up
		t.Errorf("write: %v", err)
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

// TestBulkBothWays sends 64 MiB each way at once, over both families, and compares hashes.
func TestBulkBothWays(t *testing.T) {
	size := 64 << 20
	if testing.Short() {
		size = 8 << 20
	}
	a, b := pair(t)
	served := make(chan struct{})
	accept(b, 80, func(c datapath.Stream) { exchange(t, c, size, 11, 12); served <- struct{}{} })
	families(t, b, func(t *testing.T, to netip.Addr) {
		c := dial(t, a, to, 80)
		within(t, 2*time.Minute, "exchange", func() { exchange(t, c, size, 12, 11); <-served })
	})
	if s := b.Stats(); s.RxMerged == 0 {
		t.Errorf("nothing was joined on receive: %+v", s)
	}
}

// exchange writes random bytes of one seed while it reads and checks those of another.
func exchange(t *testing.T, c datapath.Stream, size int, out, in uint64) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := io.Copy(c, io.LimitReader(source(out), int64(size))); err != nil {
			t.Errorf("write: %v", err)
		}
		_ = c.CloseWrite()
	})
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, c)
	if err != nil || n != int64(size) {
		t.Errorf("read %d of %d bytes: %v", n, size, err)
	}
	_, _ = io.Copy(want, io.LimitReader(source(in), int64(size)))
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("other bytes came than were sent")
	}
	wg.Wait()
}

// source is an endless stream of bytes that depend on the seed alone.
func source(seed uint64) io.Reader {
	var s [32]byte
	s[0] = byte(seed)
	return rand.NewChaCha8(s)
}

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(source(seed), b)
	return b
}
