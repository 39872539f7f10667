package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// whole is the largest datagram that is not fragmented.
func whole(to netip.Addr, mtu int) int {
	if to.Is6() {
		return mtu - 40 - 8
	}
	return mtu - 20 - 8
}

// maximum is the largest datagram there is.
func maximum(to netip.Addr) int {
	if to.Is6() {
		return 65535 - 8
	}
	return 65535 - 20 - 8
}

func testDatagrams(t *testing.T, r *room) {
	a, b := r.pair()
	b.echoUDP()
	families(t, b, func(r *room, to netip.Addr) {
		c := a.dialUDP(to, 53)
		for _, size := range []int{0, 1, 512, 8 << 10, 60000, maximum(to), 0} {
			datagramRoundTrip(r, c, size)
		}
		if _, err := c.Write(make([]byte, 65536)); err == nil {
			r.t.Error("a datagram was taken that does not exist")
		}
		// A short buffer truncates and the next datagram comes whole.
		_, _ = c.Write([]byte("truncated"))
		_, _ = c.Write([]byte("whole"))
		got := make([]byte, 5)
		for _, want := range []string{"trunc", "whole"} {
			if n, err := c.Read(got); err != nil || string(got[:n]) != want {
				r.t.Fatalf("got %q, %v; want %q", got[:n], err, want)
			}
		}
	})
}

func datagramRoundTrip(r *room, c net.Conn, size int) {
	r.t.Helper()
	want := random(size, uint64(size))
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(want); err != nil {
		r.t.Fatalf("write %d bytes: %v", size, err)
	}
	got := make([]byte, 65536)
	n, err := c.Read(got)
	if err != nil || !bytes.Equal(got[:n], want) {
		r.t.Fatalf("%d bytes came back of %d: %v", n, size, err)
	}
}

// aroundMTU sends datagrams around the size where they begin to be fragmented.
func aroundMTU(r *room, a, b *node, c net.Conn, to netip.Addr) {
	r.t.Helper()
	for _, mtu := range []int{1420, 1280, 1400, 8920} {
		a.set(a.iface(mtu))
		b.set(b.iface(mtu))
		for d := -1; d <= 1; d++ {
			datagramRoundTrip(r, c, whole(to, mtu)+d)
		}
	}
}

// testMTU sends datagrams around the size where they begin to be fragmented, before and after the MTU shrinks and grows. What is said of the
// path follows.
func testMTU(t *testing.T, r *room) {
	a, b := r.pair()
	b.echoUDP()
	families(t, b, func(r *room, to netip.Addr) {
		c := a.dialUDP(to, 53)
		aroundMTU(r, a, b, c, to)
		// One end knows of the smaller MTU, the other does not: what is too long for it is still taken.
		a.set(a.iface(1280))
		b.set(b.iface(1420))
		datagramRoundTrip(r, c, whole(to, 1420))
	})
	a.set(a.iface(1420))
	b.set(b.iface(1420))
	if !a.Capabilities().PathMTU {
		if p := a.peer(); p.PathMTU != 0 || p.MTUState != "" {
			t.Errorf("path MTU %d, %s, of a datapath that does not find it out", p.PathMTU, p.MTUState)
		}
		return
	}
	c := a.dialUDP(b.v4, 53)
	r.eventually("the path is found to take the MTU", func() bool {
		datagramRoundTrip(r, c, 100)
		p := a.peer()
		return p.PathMTU == 1420 && p.MTUState == datapath.MTUVerified
	})
}

// testFirstDatagramsWait shows that what arrives before Accept is read after it, in order.
func testFirstDatagramsWait(t *testing.T, r *room) {
	a, b := r.pair()
	got := make(chan string, 3)
	b.openUDP(53)
	b.HandleUDP(func(q datapath.UDPRequest) {
		if q.Local() != netip.AddrPortFrom(b.v6, 53) || q.Remote().Addr() != a.v6 {
			t.Errorf("flow from %s to %s", q.Remote(), q.Local())
		}
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
	c := a.dialUDP(b.v6, 53)
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
		case <-time.After(patience):
			t.Fatalf("%q never came", want)
		}
	}
}

// testFlowsAreApart runs many flows to one port at once: each gets its own answers.
func testFlowsAreApart(t *testing.T, r *room) {
	a, b := r.pair()
	b.echoUDP()
	var flows []net.Conn
	for range 50 {
		flows = append(flows, a.dialUDP(b.v4, 53))
	}
	for round := range 5 {
		for i, c := range flows {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = fmt.Fprint(c, i, round)
		}
		for i, c := range flows {
			if got, err := answer(c, i, round); err != nil {
				t.Fatalf("flow %d in round %d got %q, %v", i, round, got, err)
			}
		}
	}
}

// ask sends until it hears something or gives up: errors are rate-limited by kernels and may be lost.
func ask(a *node, to netip.Addr, times int) (err error) {
	c := a.dialUDP(to, 54)
	for range times {
		_, _ = c.Write([]byte("anyone?"))
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err = c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return err
}

// answer reads the flow's answer in a round. A datagram may be lost where flows begin at once: it is sent again in the first round, and
// what that brings twice is passed over.
func answer(c net.Conn, i, round int) (string, error) {
	b, want := make([]byte, 20), fmt.Sprint(i, round)
	for again := 0; ; again++ {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Read(b)
		var flow, of int
		switch got := string(b[:n]); {
		case errors.Is(err, os.ErrDeadlineExceeded) && round == 0 && again < 20:
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			if _, err := io.WriteString(c, want); err != nil {
				return got, err
			}
		case err != nil || got == want:
			return got, err
		default:
			if _, err := fmt.Sscan(got, &flow, &of); err != nil || flow != i || of > round {
				return got, fmt.Errorf("not what flow %d was sent (%w)", i, err)
			}
		}
	}
}

func testRefusedDatagram(t *testing.T, r *room) {
	a, b := r.pair()
	unreachable := func(t *testing.T) {
		families(t, b, func(r *room, to netip.Addr) {
			if err := ask(a, to, 10); !errors.Is(err, syscall.ECONNREFUSED) {
				r.t.Fatalf("got %v, want ECONNREFUSED", err)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		b.HandleUDP(nil)
		unreachable(t)
	})
	t.Run("port not open", func(t *testing.T) {
		b.echoUDP()
		unreachable(t)
	})
	t.Run("by the handler", func(t *testing.T) {
		b.openUDP(54)
		b.HandleUDP(func(q datapath.UDPRequest) { q.Refuse() })
		if b.Capabilities().AsksFirst {
			unreachable(t)
			return
		}
		families(t, b, func(r *room, to netip.Addr) {
			if err := ask(a, to, 1); !errors.Is(err, os.ErrDeadlineExceeded) {
				r.t.Fatalf("got %v, want silence", err)
			}
		})
	})
}
