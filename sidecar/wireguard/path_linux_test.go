package wireguard

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// wired gives a bare engine real sockets, and its peer a session by which what it sends comes back to it.
func wired(t testing.TB, deliver func([][]byte, int)) (*Engine, *peer, *session) {
	t.Helper()
	e := bare(deliver)
	if err := e.sockets.open(0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.sockets.close() })
	p := meet(t, e, bare(nil), innerA, key.Preshared{})
	p.at.Store(&endpoint{to: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.sockets.port)})
	t.Cleanup(p.remove)
	s := &session{peer: p, created: e.now(), sends: transportCipher(hash32{1}), receives: transportCipher(hash32{1})}
	s.local = e.index.add(entry{peer: p, session: s})
	s.remote = s.local
	p.current.Store(s)
	return e, p, s
}

// reading is what an engine's reader does, as far as it is told to.
type reading struct {
	in *inbox
	receiver
}

func newReading(e *Engine) *reading {
	return &reading{e.sockets.v4.newInbox(), receiver{engine: e, plain: make([][]byte, 0, MaxPackets)}}
}

func (r *reading) until(t testing.TB, done func() bool) {
	t.Helper()
	_ = r.in.s.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	for !done() {
		messages, err := r.in.read()
		if err != nil {
			t.Fatal(err)
		}
		r.watch(r.in.s, r.in)
		for i := range messages {
			r.take(&messages[i])
		}
	}
}

// TestPathsMakeNoGarbage sends and receives without allocating, packet by packet and by the message, in a crowd and without.
func TestPathsMakeNoGarbage(t *testing.T) {
	if racing() {
		t.Skip("NOT TESTED with the race detector: pools forget at random under it, so that everything allocates")
	}
	for _, count := range []int{1, 45} {
		var got int
		e, p, _ := wired(t, func(packets [][]byte, _ int) { got += len(packets) })
		_ = e.SetLimits(datapath.Limits{Bandwidth: 1e12, Handshakes: 10})
		p.outside.Store(true)
		inner := packet(innerA, innerA, strings.Repeat("x", 1380))
		sent := 0
		send := func() {
			b := e.NewBatch(count * 1420)
			for range count {
				copy(b.Next(len(inner)), inner)
			}
			sent += count
			e.Send(innerA, b)
		}
		r := newReading(e)
		all := func() bool { return got == sent }
		for _, crowd := range []string{"", "of peers", "of sources"} {
			if crowd != "" {
				r.crowd.overflow(e.now())
				p.carries.Store(crowd == "of sources")
			}
			send()
			r.until(t, all)
			if n := testing.AllocsPerRun(100, func() { send(); r.until(t, all) }); n > 0 {
				t.Errorf("%d packets, crowd %q: %v allocations", count, crowd, n)
			}
		}
		if n := e.count.sendErrors.Load(); n != 0 || p.tx.Load() != p.rx.Load() {
			t.Errorf("%d errors, %d bytes sent, %d received", n, p.tx.Load(), p.rx.Load())
		}
	}
}

// TestTransitMakesNoGarbage passes packets on without allocating.
func TestTransitMakesNoGarbage(t *testing.T) {
	if racing() {
		t.Skip("NOT TESTED with the race detector: pools forget at random under it, so that everything allocates")
	}
	for _, count := range []int{1, 45} {
		e, from, s := wired(t, func([][]byte, int) { t.Error("delivered") })
		e.SetHub(datapath.Interface{Hub: true})
		from.outside.Store(true)
		to := meet(t, e, bare(nil), innerB, key.Preshared{})
		t.Cleanup(to.remove)
		sink := local(t)
		to.at.Store(&endpoint{to: addrOf(sink)})
		to.current.Store(&session{peer: to, created: s.created, sends: transportCipher(hash32{2}), receives: transportCipher(hash32{2})})
		inner := packet(innerA, innerB, strings.Repeat("x", 1380))
		sent := uint64(0)
		send := func() {
			b := e.NewBatch(count * 1420)
			for range count {
				copy(b.Next(len(inner)), inner)
			}
			sent += uint64(count * WireSize(len(inner), 1420))
			from.send(b)
		}
		r := newReading(e)
		all := func() bool { return to.tx.Load() == sent }
		send()
		r.until(t, all)
		if n := testing.AllocsPerRun(100, func() { send(); r.until(t, all) }); n > 0 {
			t.Errorf("%d packets: %v allocations", count, n)
		}
	}
}

// TestSendersInTurn has two peers' datagrams arrive by turns, and many more addresses than are remembered.
func TestSendersInTurn(t *testing.T) {
	if racing() {
		t.Skip("NOT TESTED with the race detector: pools forget at random under it, so that everything allocates")
	}
	e, _, _ := wired(t, nil)
	r := newReading(e)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.sockets.port)
	senders := [2]*net.UDPConn{local(t), local(t)}
	var before uint64
	short := []byte{typeTransport, 0, 0, 0}
	more := func() bool { return e.count.malformed.Load() > before }
	round := func() {
		for _, s := range senders {
			before = e.count.malformed.Load()
			_, _ = s.WriteToUDPAddrPort(short, to)
			r.until(t, more)
			if r.in.last.to != addrOf(s) {
				t.Fatalf("from %s, want %s", r.in.last.to, addrOf(s))
			}
		}
	}
	round()
	if n := testing.AllocsPerRun(100, round); n > 0 {
		t.Errorf("%v allocations", n)
	}
	for port := range 5 * inboxSenders {
		at := endpoint{to: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(port))}
		if *r.in.remember(at) != at || len(r.in.known) > inboxSenders {
			t.Fatalf("%d senders are remembered", len(r.in.known))
		}
	}
}

// countHandler counts log records.
type countHandler struct{ n atomic.Int64 }

func (*countHandler) Enabled(context.Context, slog.Level) bool    { return true }
func (h *countHandler) Handle(context.Context, slog.Record) error { h.n.Add(1); return nil }
func (h *countHandler) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h *countHandler) WithGroup(string) slog.Handler             { return h }

// TestReaderRests reads what is no socket any more: it must not do so as fast as it can, and end when it is closed.
func TestReaderRests(t *testing.T) {
	e, _, _ := wired(t, nil)
	var h countHandler
	e.log = slog.New(&h)
	s := e.sockets.v4
	err := s.raw.Control(func(fd uintptr) {
		var pipe [2]int
		if err := errors.Join(unix.Pipe(pipe[:]), unix.Dup3(pipe[0], int(fd), 0)); err != nil {
			t.Error(err)
		}
		_, _ = unix.Close(pipe[0]), unix.Close(pipe[1])
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); e.read(0, s) }()
	time.Sleep(200 * time.Millisecond)
	if n := h.n.Load(); n == 0 || n > 100 {
		t.Errorf("%d attempts in 200 ms", n)
	}
	e.sockets.close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("it does not end")
	}
}

// TestMessageRefusedWhole has the system refuse messages of several packets as network cards and paths do: the packets go one by one.
func TestMessageRefusedWhole(t *testing.T) {
	var got int
	e, _, _ := wired(t, func(packets [][]byte, _ int) { got += len(packets) })
	e.sockets.v4.whole.Store(false)
	b := e.NewBatch(3 * 1420)
	for range 3 {
		copy(b.Next(100), packet(innerA, innerA, strings.Repeat("x", 80)))
	}
	e.Send(innerA, b)
	newReading(e).until(t, func() bool { return got == 3 })
}

// TestGoneSource sends from an address that is no longer ours: it is forgotten, and the packets leave from another, in fragments too.
func TestGoneSource(t *testing.T) {
	for _, limit := range []int32{0, 1300} {
		var got int
		e, p, _ := wired(t, func(packets [][]byte, _ int) { got += len(packets) })
		p.path.limit.Store(limit)
		at := *p.at.Load()
		at.from, at.ifidx = netip.MustParseAddr("192.0.2.77"), 0
		p.at.Store(&at)
		b := e.NewBatch(2 * 1420)
		for range 2 {
			copy(b.Next(1400), packet(innerA, innerA, strings.Repeat("x", 1380)))
		}
		e.Send(innerA, b)
		if p.at.Load().from.IsValid() || e.count.sendErrors.Load() != 0 {
			t.Fatalf("limit %d: at %+v, %d errors", limit, p.at.Load(), e.count.sendErrors.Load())
		}
		newReading(e).until(t, func() bool { return got == 2 })
	}
}

// TestGoneSourceOfHandshake begins a handshake from an address that is no longer ours: it must not take a retry to leave.
func TestGoneSourceOfHandshake(t *testing.T) {
	e, p, _ := wired(t, nil)
	p.still()
	p.at.Store(&endpoint{to: p.at.Load().to, from: netip.MustParseAddr("192.0.2.77")})
	p.start(e.now())
	newReading(e).until(t, func() bool { return len(e.letters) == 1 })
}

// TestRefusedBySystem sends where there is no way: nothing waits and nothing is held.
func TestRefusedBySystem(t *testing.T) {
	e, p, _ := wired(t, nil)
	closed, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	_ = closed.Close()
	for _, to := range []netip.AddrPort{nobody, netip.MustParseAddrPort("255.255.255.255:9"), netip.MustParseAddrPort("240.0.0.1:9")} {
		p.at.Store(&endpoint{to: to})
		for range 10 {
			b := e.NewBatch(100)
			copy(b.Next(100), packet(innerA, innerA, strings.Repeat("x", 80)))
			e.Send(innerA, b)
		}
		if got := p.standing(); got.staged != 0 || !got.keys {
			t.Errorf("%s: %+v", to, got)
		}
	}
}
