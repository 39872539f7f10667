package relay

import (
	"bytes"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/netstack"
)

// looped is a relay on a real netstack that dials its own address: a connection goes out through the forward and comes in
// through the inbound port, over gVisor's TCP both ways.
func looped(t testing.TB) (r *Relay, at netip.AddrPort) {
	t.Helper()
	own := netip.MustParseAddr("10.9.0.1")
	s, err := netstack.New(netstack.Options{Interface: datapath.Interface{Addresses: []netip.Prefix{netip.PrefixFrom(own, 24)}, MTU: 1420}})
	if err != nil {
		t.Fatal(err)
	}
	r = New(Options{Network: s})
	t.Cleanup(func() { _ = r.Close(); _ = s.Close() })
	return r, netip.AddrPortFrom(own, 80)
}

func loop(t *testing.T, proto Protocol, srv netip.AddrPort) (r *Relay, listen netip.AddrPort) {
	t.Helper()
	r, at := looped(t)
	listen = freePort(t, proto)
	if err := r.SetInbound([]Inbound{{Port: 80, Protocol: proto, To: srv}}); err != nil {
		t.Fatal(err)
	}
	if err := r.SetForwards([]Forward{{Name: "loop", Listen: listen, Protocol: proto, Targets: []netip.AddrPort{at}}}); err != nil {
		t.Fatal(err)
	}
	return r, listen
}

func TestNetstackTCP(t *testing.T) {
	r, listen := loop(t, TCP, server(t, echo))
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

// Resets that no read sees. They need a stream that can be asked.
func TestNetstackUnreadResets(t *testing.T) {
	at, conns := accepted(t)
	r, listen := loop(t, TCP, at)
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
