package relay

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"
)

// udpServer answers every datagram with prefix and the datagram.
func udpServer(t *testing.T, prefix string) netip.AddrPort {
	t.Helper()
	c := must(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, largeBuffer)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(append([]byte(prefix), buf[:n]...), from)
			}
		}
	})
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
	return addrPortOf(c.LocalAddr())
}

func dialUDP(t *testing.T, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	c := must(net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at)))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func ask(t *testing.T, c net.Conn, data []byte) []byte {
	t.Helper()
	must(c.Write(data))
	return receive(t, c)
}

func receive(t *testing.T, c net.Conn) []byte {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, largeBuffer)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func wantSilence(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := c.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %d bytes, %v", n, err)
	}
}

func (w *world) udpForward(targets ...netip.AddrPort) netip.AddrPort {
	w.t.Helper()
	at := freePort(w.t, UDP)
	w.set(Forward{Name: "one", Listen: at, Protocol: UDP, Targets: targets})
	return at
}

func TestUDPSizes(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		w.net.route(inner(1), udpServer(t, ""))
		c := dialUDP(t, w.udpForward(inner(1)))
		total := uint64(0)
		for _, n := range []int{0, 1, 1200, 1472, 9000, 65507, 0, 3} {
			sent := random(n)
			if got := ask(t, c, sent); !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came back as %d", n, len(got))
			}
			total += uint64(n)
		}
		eventually(t, "stats", func() bool {
			row := w.row(Outbound, "one", UDP)
			return row.Down == total && row.Up == total
		})
		if row := w.row(Outbound, "one", UDP); row.Flows != 1 || row.FlowTotal != 1 {
			t.Errorf("%+v", row)
		}
	})
}

func TestUDPFlowsAreSeparate(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), udpServer(t, "1"))
	w.net.route(inner(2), udpServer(t, "2"))
	at := w.udpForward(inner(1), inner(2))
	seen := map[byte]int{}
	for range 10 {
		c := dialUDP(t, at)
		first := ask(t, c, []byte("x"))[0]
		seen[first]++
		for range 5 {
			if got := ask(t, c, []byte("y"))[0]; got != first {
				t.Fatalf("the flow moved from target %c to %c", first, got)
			}
		}
	}
	if seen['1'] != 5 || seen['2'] != 5 {
		t.Errorf("spread: %v", seen)
	}
}

func TestUDPTargetsChange(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), udpServer(t, "1"))
	w.net.route(inner(2), udpServer(t, "2"))
	at := w.udpForward(inner(1))
	c := dialUDP(t, at)
	if got := ask(t, c, []byte("x")); string(got) != "1x" {
		t.Fatalf("%q", got)
	}
	w.set(Forward{Name: "one", Listen: at, Protocol: UDP, Targets: []netip.AddrPort{inner(2)}})
	if got := ask(t, c, []byte("x")); string(got) != "2x" {
		t.Errorf("after the change: %q", got)
	}
	w.set(Forward{Name: "one", Listen: at, Protocol: UDP})
	must(c.Write([]byte("x")))
	wantSilence(t, c)
	if n := w.row(Outbound, "one", UDP).Failures[NoTargets]; n != 1 {
		t.Errorf("counted %d", n)
	}
	w.set(Forward{Name: "one", Listen: at, Protocol: UDP, Targets: []netip.AddrPort{inner(1)}})
	if got := ask(t, c, []byte("x")); string(got) != "1x" {
		t.Errorf("after the second change: %q", got)
	}
}

// A target that says "unreachable" loses the flow to one that lives.
func TestUDPTargetRefuses(t *testing.T) {
	w := newWorld(t, kernelMode)
	dead := freePort(t, UDP)
	w.net.route(inner(1), dead)
	w.net.route(inner(2), udpServer(t, "2"))
	at := w.udpForward(inner(1), inner(2))
	for range 10 {
		c := dialUDP(t, at)
		eventually(t, "an answer", func() bool {
			must(c.Write([]byte("x")))
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, _ := c.Read(make([]byte, 10))
			return n == 2
		})
	}
}

func TestUDPIdle(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.UDPIdle = 100 * time.Millisecond })
	w.net.route(inner(1), udpServer(t, ""))
	c := dialUDP(t, w.udpForward(inner(1)))
	ask(t, c, []byte("x"))
	eventually(t, "the flow is forgotten", func() bool { return w.row(Outbound, "one", UDP).Flows == 0 })
	ask(t, c, []byte("y"))
	if n := w.row(Outbound, "one", UDP).FlowTotal; n != 2 {
		t.Errorf("%d flows", n)
	}
	if l := (Options{}).withDefaults().Limits; l.idleFor(53) != 30*time.Second || l.idleFor(54) != 2*time.Minute {
		t.Error("defaults")
	}
}

func TestUDPEviction(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.Flows = 4 })
	w.net.route(inner(1), udpServer(t, ""))
	at := w.udpForward(inner(1))
	for range 10 {
		ask(t, dialUDP(t, at), []byte("x"))
	}
	if row := w.row(Outbound, "one", UDP); row.Flows != 4 || row.Failures[Evicted] != 6 {
		t.Errorf("%+v", row)
	}
}

func TestUDPRemovedForward(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), udpServer(t, ""))
	at := w.udpForward(inner(1))
	ask(t, dialUDP(t, at), []byte("x"))
	w.set()
	again := must(net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)))
	_ = again.Close()
}
