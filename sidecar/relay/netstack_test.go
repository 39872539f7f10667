package relay

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/netstack"
)

// looped is a relay on a real netstack that dials its own address: a connection goes out through the forward and comes in
// through the inbound port, over gVisor's TCP both ways.
func looped(t testing.TB, with ...func(*Options)) (r *Relay, at netip.AddrPort) {
	t.Helper()
	own := netip.MustParseAddr("10.9.0.1")
	s, err := netstack.New(netstack.Options{Interface: datapath.Interface{Addresses: []netip.Prefix{netip.PrefixFrom(own, 24)}, MTU: 1420}})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Network: s}
	for _, f := range with {
		f(&o)
	}
	r = New(o)
	t.Cleanup(func() { _ = r.Close(); _ = s.Close() })
	return r, netip.AddrPortFrom(own, 80)
}

func loop(t *testing.T, proto Protocol, srv netip.AddrPort, with ...func(*Options)) (r *Relay, listen netip.AddrPort) {
	t.Helper()
	r, at := looped(t, with...)
	listen = freePort(t, proto)
	if err := r.SetInbound([]Inbound{{Port: 80, Protocol: proto, To: srv}}); err != nil {
		t.Fatal(err)
	}
	if err := r.SetForwards([]Forward{{Name: "loop", Listen: listen, Protocol: proto, Targets: []netip.AddrPort{at}}}); err != nil {
		t.Fatal(err)
	}
	return r, listen
}

// noBuffers is a relay without large buffers to lend.
func noBuffers(o *Options) { o.Limits.LargeBuffers = -1 }

func TestNetstackTCP(t *testing.T) {
	t.Run("with buffers", func(t *testing.T) { carryBothWays(t) })
	t.Run("without", func(t *testing.T) { carryBothWays(t, noBuffers) })
}

func carryBothWays(t *testing.T, with ...func(*Options)) {
	t.Helper()
	r, listen := loop(t, TCP, server(t, echo), with...)
	c := dial(t, listen)
	sent := random(8 << 20)
	go func() { _, _ = c.Write(sent); _ = c.CloseWrite() }()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	eventually(t, "both are forgotten", func() bool { return r.Stats().Connections == 0 })
	for _, row := range r.Stats().Rows {
		if len(row.Failures) != 0 {
			t.Errorf("%+v", row)
		}
	}
}

func TestNetstackResets(t *testing.T) {
	at, conns := accepted(t)
	r, listen := loop(t, TCP, at)
	c := dial(t, listen)
	s := <-conns
	abort(c)
	wantReset(t, s)
	c = dial(t, listen)
	s = <-conns
	abort(s)
	wantReset(t, c)
	eventually(t, "both are forgotten", func() bool { return r.Stats().Connections == 0 })
}

// TestNetstackBurst: connections that all begin at once are all carried.
func TestNetstackBurst(t *testing.T) {
	r, listen := loop(t, TCP, server(t, echo), func(o *Options) { o.Limits.DialsPerPeer = 2 })
	const burst = 250
	var conns []net.Conn
	for range burst {
		conns = append(conns, dial(t, listen))
	}
	for _, c := range conns {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range conns {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatalf("connection %d of %d: %v; %+v", i, burst, err, r.Stats().Rows)
		}
	}
}

// TestStalledHoldNoBuffer: whoever waits for long leaves most of the buffers to others, be it the peer that does not read or the application.
func TestStalledHoldNoBuffer(t *testing.T) {
	at, conns := accepted(t)
	const buffers = 16
	r, listen := loop(t, TCP, at, func(o *Options) { o.Limits.LargeBuffers = buffers })
	var all sync.WaitGroup
	for range 3 * buffers {
		c := dial(t, listen)
		<-conns
		all.Go(func() { stall(c) })
	}
	all.Wait()
	if free := r.lender.free.Load(); free < buffers/2 {
		t.Errorf("%d of %d buffers are free", free, buffers)
	}
}

// Resets that no read sees. They need a stream that can be asked.
func TestNetstackUnreadResets(t *testing.T) {
	t.Run("with buffers", func(t *testing.T) { resetUnread(t) })
	t.Run("without", func(t *testing.T) { resetUnread(t, noBuffers) })
}

func resetUnread(t *testing.T, with ...func(*Options)) {
	t.Helper()
	at, conns := accepted(t)
	r, listen := loop(t, TCP, at, with...)
	r.network.HandleTCP(func(q datapath.TCPRequest) {
		if s, err := q.Accept(); err == nil {
			t.Cleanup(s.Abort)
		}
	})
	if s, err := r.network.DialTCP(t.Context(), netip.MustParseAddrPort("10.9.0.1:80")); err != nil {
		t.Fatal(err)
	} else if s.Abort(); !isResetter(s) {
		t.Skip("the stack's streams are no Resetter")
	}
	r.network.HandleTCP(r.inbound.handleTCP)
	for i, stalled := range []string{"client", "client", "server", "server"} {
		c := dial(t, listen)
		s := <-conns
		if stalled == "client" {
			stall(c)
		} else {
			stall(s)
		}
		if i%2 == 0 {
			abort(c)
			wantReset(t, s)
		} else {
			abort(s)
			wantReset(t, c)
		}
	}
	c := dial(t, listen)
	s := <-conns
	_ = c.CloseWrite()
	_, _ = io.ReadAll(s)
	abort(c)
	eventually(t, "the server cannot write", func() bool { // after the end a kernel tells writers only
		_, err := s.Write([]byte("x"))
		return err != nil
	})
	eventually(t, "all are forgotten", func() bool { return r.Stats().Connections == 0 })
}

func isResetter(s datapath.Stream) bool {
	_, ok := s.(Resetter)
	return ok
}

func TestNetstackRefused(t *testing.T) {
	_, listen := loop(t, TCP, freePort(t, TCP))
	begin := time.Now()
	wantDialReset(t, listen)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("took %s", d)
	}
}

func TestNetstackUDP(t *testing.T) {
	_, listen := loop(t, UDP, udpServer(t, ""))
	c := dialUDP(t, listen)
	for _, n := range []int{0, 1, 1200, 9000, 65507, 0} {
		if got := ask(t, c, random(n)); len(got) != n {
			t.Errorf("%d bytes came back as %d", n, len(got))
		}
	}
}
