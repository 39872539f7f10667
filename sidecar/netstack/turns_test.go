package netstack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// pairs opens n streams from one stack to another.
func pairs(t *testing.T, n int) (clients, servers []datapath.Stream) {
	t.Helper()
	a, b := wired(t, 1420, nil)
	accepted := accept(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range n {
		c, err := a.DialTCP(ctx, netip.AddrPortFrom(v4(2), 80))
		if err != nil {
			t.Fatal(err)
		}
		clients, servers = append(clients, c), append(servers, <-accepted)
	}
	return clients, servers
}

// wide lets the stream write whole super-segments, however little congestion control allows as yet.
func wide(s datapath.Stream) *stream {
	c := s.(*stream)
	c.flight.window, c.flight.asked = sendMax, time.Now().Add(time.Hour)
	return c
}

// TestRequestNeedsNoTurn: a path that has no room lets a request through at once, and makes a message wait.
func TestRequestNeedsNoTurn(t *testing.T) {
	clients, servers := pairs(t, 1)
	c := wide(clients[0])
	p := c.flight.path
	p.mu.Lock()
	p.held = flightMax
	p.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	_ = servers[0].SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(servers[0], make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if p.total(time.Now()) != flightRate-flightSpare {
		t.Error("nothing is spared for the next request")
	}
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Write(make([]byte, 2*flightLittle)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a message: %d bytes written, %v, want a timeout", n, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.line) != 0 || c.flight.want != 0 || p.held != flightMax {
		t.Errorf("who has given up still has a place in line: %d there, %d wanted, %d held more", len(p.line), c.flight.want, p.held-flightMax)
	}
}

// TestTurnsGoRound: of streams with as much to send as they can, all get about as much, once all have begun.
func TestTurnsGoRound(t *testing.T) {
	const streams, begun, size = 24, 128 << 20, 512 << 20
	clients, servers := pairs(t, streams)
	var all atomic.Int64
	var got, early [streams]atomic.Int64
	full := make(chan struct{})
	var wg sync.WaitGroup
	for i := range streams {
		wide(clients[i])
		wg.Go(func() {
			for buf := make([]byte, clients[i].(*stream).chunk); ; {
				if _, err := clients[i].Write(buf); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for buf := make([]byte, 1<<20); ; {
				n, err := servers[i].Read(buf)
				if err != nil {
					return
				}
				now := all.Add(int64(n))
				if got[i].Add(int64(n)); now < begun {
					early[i].Add(int64(n))
				}
				if now >= size && now-int64(n) < size {
					close(full)
				}
			}
		})
	}
	select {
	case <-full:
	case <-time.After(time.Minute):
		t.Errorf("only %d bytes", all.Load())
	}
	var each []int64
	for i := range got {
		each = append(each, got[i].Load()-early[i].Load())
	}
	for i := range clients {
		clients[i].(*stream).Abort()
		servers[i].(*stream).Abort()
	}
	wg.Wait()
	if least, most := slices.Min(each), slices.Max(each); 2*least < most {
		t.Errorf("bytes of the slowest stream: %d, of the fastest: %d; all: %v", least, most, each)
	}
}

// TestNobodyWaitsForAnothersReader: streams whose readers do not read hold turns, and another one carries on.
func TestNobodyWaitsForAnothersReader(t *testing.T) {
	const stuck, size = 16, 16 << 20
	clients, servers := pairs(t, stuck+1)
	for _, c := range clients {
		wide(c)
		go func() { _, _ = c.Write(make([]byte, size)) }() // until its stack is closed
	}
	last := servers[stuck]
	_ = last.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := io.CopyN(io.Discard, last, size); err != nil {
		t.Errorf("%d of %d bytes, %v", n, size, err)
	}
	p := clients[stuck].(*stream).flight.path
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := 0
	for _, c := range clients[:stuck] {
		sum += c.(*stream).flight.held
	}
	if sum > stuck*flightRate {
		t.Errorf("those that get no further have queued %d bytes", sum)
	}
}

// TestSlowReader: one that reads on and on, but little, does not hold another back either.
func TestSlowReader(t *testing.T) {
	const size = 64 << 20
	clients, servers := pairs(t, 2)
	for _, c := range clients {
		wide(c)
		go func() { _, _ = c.Write(make([]byte, 2*size)) }() // until its stack is closed
	}
	var slow atomic.Int64
	go func() {
		for buf := make([]byte, 64<<10); ; time.Sleep(5 * time.Millisecond) {
			n, err := servers[0].Read(buf)
			if err != nil {
				return
			}
			slow.Add(int64(n))
		}
	}()
	_ = servers[1].SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := io.CopyBuffer(io.Discard, io.LimitReader(servers[1], size), make([]byte, 1<<20)); err != nil || n != size {
		t.Fatalf("%d of %d bytes, %v", n, size, err)
	}
	if slow.Load() > size/3 {
		t.Errorf("while the fast reader got %d bytes, the slow one got %d: it sets the pace", size, slow.Load())
	}
}

// TestNoPlaceInLineIsLeft: a message that waits in line may need no turn any more by the time it is asked for again.
func TestNoPlaceInLineIsLeft(t *testing.T) {
	const mtu, message = 1420, 10 << 10
	a, b := newStack(t, 1, mtu), newStack(t, 2, mtu)
	var cut atomic.Bool
	a.Connect(&wire{mtu: mtu, to: b, drop: func([]byte) bool { return cut.Load() }})
	b.Connect(&wire{mtu: mtu, to: a})
	client, server := connect(t, a, b, v4(2))
	c := client.(*stream)
	p := c.flight.path
	p.mu.Lock()
	p.held += flightMax
	p.mu.Unlock()
	cut.Store(true)
	if _, err := c.Write(make([]byte, message)); err != nil {
		t.Fatal(err)
	}
	if _, ok := p.begin(c, message, time.Now()); ok {
		t.Fatal("a message more than is little needs no turn")
	}
	cut.Store(false)
	_ = server.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(server, make([]byte, message)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(make([]byte, message)); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.line) != 0 || c.flight.want != 0 || c.flight.granted != 0 || p.held != flightMax {
		t.Errorf("%d in line, %d bytes wanted, %d granted, %d held more", len(p.line), c.flight.want, c.flight.granted, p.held-flightMax)
	}
}

// TestUntoldAcknowledgements: gVisor may look at the size of a buffer before it is set and not tell of what is acknowledged.
func TestUntoldAcknowledgements(t *testing.T) {
	const size = 4 << 20
	clients, servers := pairs(t, 1)
	c := wide(clients[0])
	c.wq.EventUnregister(&c.flight.entry)
	go func() { _, _ = c.Write(make([]byte, size)) }()
	_ = servers[0].SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := io.CopyN(io.Discard, servers[0], size); err != nil {
		t.Errorf("%d of %d bytes, %v", n, size, err)
	}
}

// TestTurnsAreGivenBack: however streams end, nothing of what they held is left.
func TestTurnsAreGivenBack(t *testing.T) {
	const streams = 24
	clients, servers := pairs(t, streams)
	keep := clients[0].(*stream).flight.path
	var wg sync.WaitGroup
	for i, s := range clients {
		c := wide(s)
		go func() { _, _ = io.CopyN(io.Discard, servers[i], 1<<20) }()
		wg.Go(func() {
			for {
				if _, err := c.Write(make([]byte, 3*c.chunk)); err != nil {
					return
				}
			}
		})
		time.AfterFunc(time.Duration(i)*5*time.Millisecond, func() {
			switch i % 4 {
			case 0:
				_ = c.Close()
			case 1:
				c.Abort()
			case 2:
				servers[i].(*stream).Abort()
			case 3:
				_ = c.SetWriteDeadline(time.Now())
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		c.(*stream).Abort()
	}
	keep.mu.Lock()
	defer keep.mu.Unlock()
	if keep.held != 0 || len(keep.line) != 0 || len(keep.holders) != 0 {
		t.Errorf("%d bytes held, %d streams in line, %d hold some", keep.held, len(keep.line), len(keep.holders))
	}
}

// TestEndedStreamHoldsNothing: not even if gVisor never tells of its end.
func TestEndedStreamHoldsNothing(t *testing.T) {
	clients, _ := pairs(t, 1)
	c := clients[0].(*stream)
	c.wq.EventUnregister(&c.flight.entry)
	p := c.flight.path
	p.mu.Lock()
	p.hold(c, 100_000, time.Now())
	p.mu.Unlock()
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != 0 || len(p.holders) != 0 {
		t.Errorf("%d bytes held, by %d streams", p.held, len(p.holders))
	}
}

// TestSlowStreamCountsAgain: once half of what it held is acknowledged, and until then it asks in vain.
func TestSlowStreamCountsAgain(t *testing.T) {
	const holds = 100_000
	clients, _ := pairs(t, 1)
	c := wide(clients[0])
	p, now := c.flight.path, time.Now()
	check := func(what string, held, idle int, may bool) {
		t.Helper()
		if got := p.take(c, flightLittle+1, now); p.held-c.flight.granted != held || p.idle != idle || got != may {
			t.Errorf("%s: %d bytes count and %d do not, want %d and %d; it may take more: %t", what, p.held-c.flight.granted, p.idle, held, idle, got)
		}
		if !may && len(p.line) != 0 {
			t.Errorf("%s: it stands in line", what)
		}
		if got := p.little(c, 1, now); got != may {
			t.Errorf("%s: it may send a little: %t", what, got)
		}
		if slow := map[bool]int{true: 0, false: 1}[may]; p.slowly != slow {
			t.Errorf("%s: %d streams are slow", what, p.slowly)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold(c, holds, now)
	p.judge(c, now.Add(turnAge-1))
	if c.flight.slow != 0 {
		t.Error("it is slow before its time")
	}
	p.judge(c, now.Add(turnAge))
	check("slow", 0, holds, false)
	p.hold(c, holds/2+1, now)
	check("still slow", 0, holds/2+1, false)
	p.hold(c, holds/2, now)
	check("no longer slow", holds/2, 0, true)
}

// TestLittlesAmongMany: what a stream may have without a turn is less where hundreds hold some or wait for it.
func TestLittlesAmongMany(t *testing.T) {
	for holders, want := range map[int]int{0: flightLittle, 255: flightLittle, 511: flightLittle / 2, 5000: littleLeast} {
		p := path{turns: turns{holders: make([]*stream, holders/2), line: make([]*stream, holders-holders/2)}}
		if got := p.littles(); got != want {
			t.Errorf("%d bytes beside %d, want %d", got, holders, want)
		}
	}
}

// TestMessagesAmongMany: a message is an equal part of what those hold that are not slow, less what the slow ones keep, and of a quarter in any case.
func TestMessagesAmongMany(t *testing.T) {
	const packet = 1000
	c := &stream{segment: packet}
	for _, v := range []struct{ holders, slow, idle, want int }{
		{0, 0, 0, 4 * flightRate},
		{31, 0, 0, 4 * flightRate / 32},
		{31, 16, flightRate, 3 * flightRate / 16},
		{31, 31, 4 * flightRate, flightRate / 32},
		{1000, 0, 0, holdersLeast},
		{1000, 999, 4 * flightRate, holdersLeast},
	} {
		p := path{turns: turns{holders: make([]*stream, v.holders), slowly: v.slow, idle: v.idle}}
		if got, want := p.longest(c, flightRate), v.want/packet*packet; got != want {
			t.Errorf("%+v: %d bytes, want %d", v, got, want)
		}
	}
}

// TestNoSecondAmongMany: who holds a message gets no other where many do, and who holds none does.
func TestNoSecondAmongMany(t *testing.T) {
	clients, _ := pairs(t, holdersMany+2)
	p, now := clients[0].(*stream).flight.path, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trip = time.Millisecond
	for i, s := range clients[:holdersMany+1] {
		c := wide(s)
		if i == holdersMany && !p.take(clients[0].(*stream), flightLittle+1, now) {
			t.Error("where few hold one, none gets a second")
		}
		p.hold(c, flightRate/2/holdersMany, now)
	}
	if p.take(clients[1].(*stream), flightLittle+1, now) || len(p.line) != 0 {
		t.Error("where many hold one, one gets a second")
	}
	p.trip = 100 * time.Millisecond // far from busy
	if !p.take(clients[3].(*stream), flightLittle+1, now) {
		t.Error("on a long path none gets a second")
	}
	p.trip = time.Millisecond
	if !p.take(wide(clients[holdersMany+1]), flightLittle+1, now) {
		t.Error("who holds none gets none")
	}
	p.judge(clients[2].(*stream), now.Add(time.Hour)) // does not count from now on
	if !p.take(clients[1].(*stream), flightLittle+1, now) {
		t.Error("where fewer count, none gets a second")
	}
}

// TestHalfClosedStreamTakesTurns: a peer that has closed its direction and does not read is sent no more than any other.
func TestHalfClosedStreamTakesTurns(t *testing.T) {
	clients, servers := pairs(t, 1)
	c := wide(clients[0])
	if err := servers[0].CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("%v, want the end", err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := c.Write(make([]byte, wholeMessage))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a timeout", err)
	}
	if most := flightRate + receiveMax/2; n > most {
		t.Errorf("%d bytes were taken for a peer that reads nothing, want %d at most", n, most)
	}
}

// TestSweepGoesOn: as long as one waits in line, and no faster without a reason.
func TestSweepGoesOn(t *testing.T) {
	clients, _ := pairs(t, 2)
	first, second := wide(clients[0]), wide(clients[1])
	p := first.flight.path
	const message = 2 * flightLittle
	now := time.Now()
	p.mu.Lock()
	p.held += flightMax
	p.mu.Unlock()
	if _, ok := p.begin(second, message, now); ok {
		t.Fatal("there is room for a message")
	}
	p.sweep()
	p.mu.Lock()
	if p.pause != turnAge {
		t.Errorf("nobody holds a turn yet, and one waits: the next sweep is after %s, want %s", p.pause, turnAge)
	}
	p.held -= flightMax
	p.unline(second)
	p.hold(first, message, now)
	first.flight.writing = true // so that nothing is settled
	p.pause = 0
	p.mu.Unlock()
	p.sweep()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pause < turnAge {
		t.Errorf("the next sweep is after %s, want %s at least", p.pause, turnAge)
	}
}
