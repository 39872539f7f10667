package device

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// echoUDP answers every datagram of every flow on port 53 and refuses other ports.
func echoUDP(n *node) {
	n.HandleUDP(func(q datapath.UDPRequest) {
		if q.Local().Port() != 53 {
			q.Refuse()
			return
		}
		c, err := q.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 65535)
		for {
			n, err := c.Read(buf)
			if err != nil {
				_ = c.Close()
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				_ = c.Close()
				return
			}
		}
	})
}

func dialUDP(t *testing.T, from *node, to netip.Addr, port uint16) net.Conn {
	t.Helper()
	c, err := from.DialUDP(ctx(t, time.Second), netip.AddrPortFrom(to, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestDatagrams(t *testing.T) {
	a, b := pair(t)
	echoUDP(b)
	families(t, b, func(t *testing.T, to netip.Addr) {
		whole := 1420 - 8 - 20 // the largest that is not fragmented
		if to.Is6() {
			whole -= 20
		}
		c := dialUDP(t, a, to, 53)
		for _, size := range []int{0, 1, 512, whole - 1, whole, whole + 1, 8 << 10, 60000} {
			want := random(size, uint64(size))
			if _, err := c.Write(want); err != nil {
				t.Fatalf("write %d bytes: %v", size, err)
			}
			got := make([]byte, 65535)
			n, err := c.Read(got)
			if err != nil || !bytes.Equal(got[:n], want) {
				t.Fatalf("%d bytes came back of %d: %v", n, size, err)
			}
		}
		// A short buffer truncates and the next datagram comes whole.
		_, _ = c.Write([]byte("truncated"))
		_, _ = c.Write([]byte("whole"))
		got := make([]byte, 5)
		for _, want := range []string{"trunc", "whole"} {
			if n, err := c.Read(got); err != nil || string(got[:n]) != want {
				t.Fatalf("got %q, %v; want %q", got[:n], err, want)
			}
		}
	})
}

// TestFirstDatagramsWait shows that what arrives before Accept is read after it, in order.
func TestFirstDatagramsWait(t *testing.T) {
	a, b := pair(t)
	got := make(chan string, 3)
	b.HandleUDP(func(q datapath.UDPRequest) {
		time.Sleep(200 * time.Millisecond)
		c, err := q.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := q.Accept(); err == nil {
			t.Error("a second Accept succeeded")
		}
		buf := make([]byte, 10)
		for range 3 {
			n, _ := c.Read(buf)
			got <- string(buf[:n])
		}
		_ = c.Close()
	})
	c := dialUDP(t, a, b.v6, 53)
	for _, s := range []string{"one", "two", "three"} {
		_, _ = c.Write([]byte(s))
		time.Sleep(10 * time.Millisecond)
	}
	for _, want := range []string{"one", "two", "three"} {
		select {
		case s := <-got:
			if s != want {
				t.Fatalf("got %q, want %q", s, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%q never came", want)
		}
	}
}

func TestRefusedDatagram(t *testing.T) {
	a, b := pair(t)
	for name, arm := range map[string]func(){
		"nobody listens": func() { b.HandleUDP(nil) },
		"by the handler": func() { echoUDP(b) },
	} {
		arm()
		t.Run(name, func(t *testing.T) {
			families(t, b, func(t *testing.T, to netip.Addr) {
				c := dialUDP(t, a, to, 54)
				_, _ = c.Write([]byte("anyone?"))
				if _, err := c.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("got %v, want ECONNREFUSED", err)
				}
			})
		})
	}
}

func TestFlowsAreBounded(t *testing.T) {
	a, b := pair(t)
	hold := make(chan net.Conn, 2000)
	b.HandleUDP(func(q datapath.UDPRequest) {
		if c, err := q.Accept(); err == nil {
			hold <- c
		}
	})
	for range 1100 { // the default limit for one peer is 1024
		c := dialUDP(t, a, b.v4, 53)
		_, _ = c.Write([]byte("x"))
	}
	deadline := time.Now().Add(10 * time.Second)
	for b.Stats().DropUDPFlows == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := len(hold); n > 1024 || b.Stats().DropUDPFlows == 0 {
		t.Fatalf("%d flows, %d refused", n, b.Stats().DropUDPFlows)
	}
	for len(hold) > 0 {
		_ = (<-hold).Close()
	}
	c := dialUDP(t, a, b.v4, 53)
	_, _ = c.Write([]byte("room again"))
	select {
	case c := <-hold:
		_ = c.Close()
	case <-time.After(5 * time.Second):
		t.Fatal("closed flows did not make room")
	}
}
