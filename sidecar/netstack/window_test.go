package netstack

import (
	"bytes"
	"io"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// rawTCP is the other end of one connection, that says exactly what it is told to.
type rawTCP struct {
	t    *testing.T
	s    *Stack
	from chan []byte
	seq  uint32 // of what it sends next
	ack  uint32 // all of what it got
	edge uint32 // the furthest that it was ever allowed to send
	unit uint   // of the window
	wide uint16 // its own window, in its own units
}

func (r *rawTCP) send(seq uint32, flags header.TCPFlags, payload []byte, options ...byte) {
	r.s.Deliver([][]byte{r.segment(seq, flags, payload, options...)}, 0)
}

func (r *rawTCP) segment(seq uint32, flags header.TCPFlags, payload []byte, options ...byte) []byte {
	const port = 4242
	b := segment(v4(9), v4(1), port, seq, byte(flags), append(bytes.Clone(options), payload...))
	tcp := header.TCP(b[ipv4Header:])
	tcp.SetDataOffset(uint8(tcpHeader + len(options)))
	tcp.SetAckNumber(r.ack)
	tcp.SetWindowSize(r.wide)
	return b
}

// next is the next segment from the stack, or nil after a while without.
func (r *rawTCP) next(wait time.Duration) header.TCP {
	select {
	case b := <-r.from:
		tcp := header.TCP(b[ipv4Header:])
		window := uint32(tcp.WindowSize())
		if tcp.Flags()&header.TCPFlagSyn == 0 {
			window <<= r.unit
		}
		if edge := tcp.AckNumber() + window; int32(edge-r.edge) > 0 || r.edge == 0 {
			r.edge = edge
		}
		return tcp
	case <-time.After(wait):
		return nil
	}
}

// openRaw is a connection of a rawTCP's, and what the stack has of it, beside others that have so many bytes of receive buffers.
func openRaw(t *testing.T, others int64) (*rawTCP, datapath.Stream) {
	t.Helper()
	s := newStack(t, 1, 1420)
	s.backlogs.offered.Store(others)
	r := &rawTCP{t: t, s: s, from: make(chan []byte, 10000), wide: 60000}
	s.Connect(&wire{mtu: 1420, see: func(p []byte) { r.from <- bytes.Clone(p) }})
	return r, r.open(accept(t, s))
}

// open connects and returns what the stack's side has.
func (r *rawTCP) open(to <-chan datapath.Stream) datapath.Stream {
	r.ask()
	r.send(r.seq, header.TCPFlagAck, nil)
	return <-to
}

// ask sends a SYN and hears the answer.
func (r *rawTCP) ask() {
	const start = 1000
	r.send(start, header.TCPFlagSyn, nil, 3, 3, 7, 1)
	reply := r.next(5 * time.Second)
	if reply == nil || reply.Flags() != header.TCPFlagSyn|header.TCPFlagAck {
		r.t.Fatalf("no answer to a SYN: %v", reply)
	}
	r.unit = uint(header.ParseSynOptions(reply.Options(), true).WS)
	r.seq, r.ack = start+1, reply.SequenceNumber()+1
}

// TestFirstFlightFillsWindow: a peer sends all that it may together with the end of the handshake. It hears at once that it may send more, and not
// only when it asks.
func TestFirstFlightFillsWindow(t *testing.T) {
	for range 10 { // what comes after the stream's buffer has grown fills no window
		s := newStack(t, 1, 1420)
		r := &rawTCP{t: t, s: s, from: make(chan []byte, 10000), wide: 60000}
		s.Connect(&wire{mtu: 1420, see: func(p []byte) { r.from <- bytes.Clone(p) }})
		to := accept(t, s)
		r.ask()
		flight := [][]byte{r.segment(r.seq, header.TCPFlagAck, nil)}
		for r.seq != r.edge {
			n := min(1340, r.edge-r.seq)
			flight = append(flight, r.segment(r.seq, header.TCPFlagAck, make([]byte, n)))
			r.seq += n
		}
		s.Deliver(flight, 0)
		<-to
		for until := time.Now().Add(5 * time.Second); r.edge == r.seq; {
			if r.next(time.Until(until)) == nil {
				t.Fatal("the window has closed, and the peer hears of no other")
			}
		}
	}
}

// TestClosedWindow has a peer fill the receive window to its very last byte, of which the stack can advertise no part, being less than
// a window's unit: what the peer acknowledges from there counts, or an application that reads only what it could answer waits for ever.
func TestClosedWindow(t *testing.T) {
	r, app := openRaw(t, 0)
	s := r.s
	if 1<<r.unit != windowUnit {
		t.Fatalf("a window's unit is %d, not %d", 1<<r.unit, windowUnit)
	}

	// Fill it but for less than a unit.
	const rest = 28
	closed := false
	for r.edge == 0 || int32(r.edge-r.seq) > rest {
		n := min(1340, r.edge-r.seq-rest)
		r.send(r.seq, header.TCPFlagAck, make([]byte, n))
		r.seq += n
		for reply := r.next(10 * time.Millisecond); reply != nil; reply = r.next(0) {
			closed = reply.WindowSize() == 0
		}
	}
	for reply := r.next(100 * time.Millisecond); reply != nil; reply = r.next(100 * time.Millisecond) {
		closed = reply.WindowSize() == 0
	}
	if !closed || r.edge-r.seq == 0 {
		t.Fatalf("the window is not closed with a rest: %v, %d bytes", closed, r.edge-r.seq)
	}
	// The peer may send the rest, and it is lost. What it says next is from behind it.
	behind := r.seq + rest

	const size = 300 << 10
	go func() { _, _ = app.Write(make([]byte, size)) }()
	got := 0
	for got < size {
		reply := r.next(5 * time.Second)
		if reply == nil {
			t.Fatalf("after %d bytes of %d nothing more comes: what was acknowledged is not heard", got, size)
		}
		if n := len(reply) - int(reply.DataOffset()); n > 0 && reply.SequenceNumber() == r.ack {
			got += n
			r.ack += uint32(n)
			r.send(behind, header.TCPFlagAck, nil)
		}
	}
	// Once the application reads, the peer sends the rest again and goes on.
	read := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, app)
		read <- n
	}()
	whole := int64(r.seq+rest-1001) + 1340
	for deadline := time.Now().Add(5 * time.Second); int32(r.edge-behind) < 1340; {
		if time.Now().After(deadline) {
			t.Fatal("the window does not open again")
		}
		r.next(10 * time.Millisecond)
	}
	r.send(r.seq, header.TCPFlagAck, make([]byte, rest))
	r.send(behind, header.TCPFlagAck|header.TCPFlagFin, make([]byte, 1340))
	select {
	case n := <-read:
		if n != whole {
			t.Errorf("%d bytes arrived of %d", n, whole)
		}
	case <-time.After(5 * time.Second):
		t.Error("the end did not arrive")
	}
	if n := s.link.windows.ours.open.Load(); n != 0 {
		t.Errorf("%d windows are taken for closed", n)
	}
}

// TestClosedWindowOfPeer: a peer closes its window before what it had been allowed to be sent, and hears nothing from behind that. What the
// stack acknowledges meanwhile comes from where the window has closed; once that opens, from the end again.
func TestClosedWindowOfPeer(t *testing.T) {
	r, app := openRaw(t, 0)
	const size, rest = 4000, 100
	if _, err := app.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < size; {
		sent := r.next(5 * time.Second)
		if sent == nil {
			t.Fatalf("%d bytes come of %d", got, size)
		}
		got += len(sent) - int(sent.DataOffset())
	}
	end := r.ack + size
	r.ack, r.wide = end-rest, 0
	acknowledged := func(from uint32) {
		t.Helper()
		r.send(r.seq, header.TCPFlagAck, []byte{1})
		r.seq++
		for until := time.Now().Add(5 * time.Second); ; {
			sent := r.next(time.Until(until))
			if sent == nil {
				t.Fatal("nothing acknowledges what the peer sends")
			}
			if len(sent) > int(sent.DataOffset()) || sent.AckNumber() != r.seq {
				continue // the rest, again
			}
			if sent.SequenceNumber() != from {
				t.Fatalf("an acknowledgement is %d bytes from the end, want %d", end-sent.SequenceNumber(), end-from)
			}
			return
		}
	}
	acknowledged(end - rest)
	acknowledged(end - rest)
	r.wide = 60000
	acknowledged(end)
	if n := r.s.link.windows.theirs.open.Load(); n != 0 {
		t.Errorf("%d windows of peers are taken for closed", n)
	}
	// Neither does a window that was closed by more than a unit, which no peer does, move anything.
	r.ack, r.wide = r.ack-mostUnit, 0
	acknowledged(end)
}

// TestResetIsNoClosedWindow: a reset has no window, and its stream no more segments that would open it.
func TestResetIsNoClosedWindow(t *testing.T) {
	open := func(s *Stack) int32 { return s.link.windows.ours.open.Load() + s.link.windows.theirs.open.Load() }
	a, b := wired(t, 1420, nil)
	for range 20 {
		client, server := connect(t, a, b, v4(2))
		client.Abort()
		_, _ = io.Copy(io.Discard, server)
		_ = server.Close()
	}
	if n := open(a) + open(b); n != 0 {
		t.Errorf("%d windows are taken for closed", n)
	}
}
