package device

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// TestCloseUnderLoad closes either end while streams and datagrams run both ways.
func TestCloseUnderLoad(t *testing.T) {
	for _, which := range []string{"sender", "receiver"} {
		t.Run(which, func(t *testing.T) {
			a, b := pair(t)
			echoUDP(b)
			b.HandleTCP(func(q datapath.TCPRequest) {
				if c, err := q.Accept(); err == nil {
					echo(c)
				}
			})
			ended := make(chan struct{}, 20)
			for range 8 {
				c := dial(t, a, b.v4, 80)
				go func() { _, _ = io.Copy(io.Discard, c); ended <- struct{}{} }()
				go func() { _, _ = io.Copy(c, source(1)); ended <- struct{}{} }()
			}
			u := dialUDP(t, a, b.v6, 53)
			_ = u.SetDeadline(time.Time{})
			go func() { _, _ = io.Copy(u, source(2)) }()
			time.Sleep(200 * time.Millisecond)
			victim := map[string]*node{"sender": a, "receiver": b}[which]
			within(t, 10*time.Second, "close", func() { _ = victim.Close() })
			_ = a.Close() // streams of the survivor end by reset or, should that be lost, by its own close
			within(t, 10*time.Second, "the streams' end", func() {
				for range 16 {
					<-ended
				}
			})
			_ = u.Close()
		})
	}
}

// TestClosedDevice shows that a closed device says so.
func TestClosedDevice(t *testing.T) {
	a, b := pair(t)
	_ = a.Close()
	_ = a.Close()
	to := netip.AddrPortFrom(b.v4, 80)
	if _, err := a.DialTCP(context.Background(), to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("DialTCP: %v", err)
	}
	if _, err := a.DialUDP(context.Background(), to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("DialUDP: %v", err)
	}
	if err := a.UpdatePeers(nil, []key.Public{b.priv.Public()}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("UpdatePeers: %v", err)
	}
	if err := a.SetInterface(datapath.Interface{MTU: 1420}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetInterface: %v", err)
	}
}

// TestPeersLearnOfClose shows that a connection does not hang when the other device goes.
func TestPeersLearnOfClose(t *testing.T) {
	a, b := pair(t)
	hold := make(chan datapath.Stream, 1)
	accept(b, 80, func(c datapath.Stream) { hold <- c })
	c := dial(t, a, b.v4, 80)
	<-hold
	_ = b.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v, want ECONNRESET", err)
	}
}

func TestNoGoroutineIsLeftBehind(t *testing.T) {
	cycle := func() {
		a, b := open(t, 1), open(t, 2)
		update(t, a, b.as())
		update(t, b, a.as())
		accept(b, 80, echo)
		c := dial(t, a, b.v4, 80)
		_, _ = c.Write([]byte("x"))
		_, _ = c.Read(make([]byte, 1))
		_ = a.Close()
		_ = b.Close()
	}
	cycle()
	before := runtime.NumGoroutine()
	for range 5 {
		cycle()
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+4; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := datapath.Interface{Addresses: prefixes(t, "10.0.0.1/32"), MTU: 1420}
	if _, err := Open(Options{Interface: good}); err == nil {
		t.Error("no private key was accepted")
	}
	if _, err := Open(Options{PrivateKey: key.NewPrivate(), Interface: datapath.Interface{MTU: 100}}); err == nil {
		t.Error("an MTU of 100 was accepted")
	}
	a := open(t, 1)
	if d, err := Open(Options{PrivateKey: key.NewPrivate(), Interface: good, ListenPort: a.ListenPort()}); err == nil {
		_ = d.Close()
		t.Error("a port in use was accepted")
	}
}
