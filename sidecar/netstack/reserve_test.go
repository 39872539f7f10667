package netstack

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// until waits for something that must come.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestReserve: what was reserved can be written without waiting, whoever else comes meanwhile.
func TestReserve(t *testing.T) {
	clients, servers := pairs(t, 1)
	c := wide(clients[0])
	p := c.flight.path
	n, err := c.Reserve(c.chunk)
	if n != c.chunk || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	p.mu.Lock()
	p.held += flightMax
	p.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if n, err := c.Write(make([]byte, n)); n != c.chunk || err != nil {
		t.Fatalf("%d bytes written, %v", n, err)
	}
	_ = servers[0].SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(servers[0], make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Reserve(100); n != 100 || err != nil {
		t.Errorf("a request: %d bytes, %v", n, err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Reserve(c.chunk); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a message where there is no room: %d bytes, %v, want a timeout", n, err)
	}
	_ = c.SetWriteDeadline(time.Time{})
	ended := make(chan error)
	go func() {
		_, err := c.Reserve(c.chunk)
		ended <- err
	}()
	until(t, "it waits in line", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.line) == 1
	})
	c.Abort()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended by %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != flightMax || len(p.line) != 0 {
		t.Errorf("%d bytes are still held, %d in line", p.held-flightMax, len(p.line))
	}
}

// TestReservedIsGivenBack: a turn that nobody used.
func TestReservedIsGivenBack(t *testing.T) {
	clients, _ := pairs(t, 1)
	c := wide(clients[0])
	if _, err := c.Reserve(c.chunk); err != nil {
		t.Fatal(err)
	}
	p := c.flight.path
	if p.held != c.chunk {
		t.Errorf("%d bytes are reserved, want %d", p.held, c.chunk)
	}
	_ = c.Close()
	if p.held != 0 {
		t.Errorf("%d bytes are held", p.held)
	}
}

// TestReserveWhileItEnds: what is granted to a stream that has been closed meanwhile does not stay granted.
func TestReserveWhileItEnds(t *testing.T) {
	clients, _ := pairs(t, 1)
	c := wide(clients[0])
	c.flight.asked = time.Time{} // so that it asks, and waits for the endpoint
	ep := c.ep.(*tcp.Endpoint)
	ep.LockUser()
	ended := make(chan error)
	go func() {
		_, err := c.Reserve(c.chunk)
		ended <- err
	}()
	until(t, "it waits for the endpoint", func() bool {
		all := make([]byte, 1<<20)
		for goroutine := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
			if strings.Contains(goroutine, "(*stream).Reserve(") && strings.Contains(goroutine, "(*Endpoint).LockUser(") {
				return true
			}
		}
		return false
	})
	c.shut(func() {})
	ep.UnlockUser()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended by %v", err)
	}
	if p := c.flight.path; p.held != 0 || len(p.line) != 0 {
		t.Errorf("%d bytes are held, %d in line", p.held, len(p.line))
	}
	ep.Abort()
}

// TestManyHoldLittleEach: of many streams that nobody reads each holds less than one of a few does.
func TestManyHoldLittleEach(t *testing.T) {
	const streams = 400
	clients, _ := pairs(t, streams)
	p := clients[0].(*stream).flight.path
	p.mu.Lock()
	p.trip = leastTrip // however long the handshakes took: a long path may have more
	p.mu.Unlock()
	for _, s := range clients {
		c := wide(s)
		go func() {
			for {
				if _, err := c.Write(make([]byte, c.chunk)); err != nil {
					return
				}
			}
		}()
	}
	held, since := 0, time.Now()
	for deadline := time.Now().Add(time.Minute); time.Since(since) < time.Second; time.Sleep(20 * time.Millisecond) {
		p.mu.Lock()
		if now := p.held + p.idle; now != held || len(p.holders) < streams {
			held, since = now, time.Now()
		}
		p.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("%d streams hold %d bytes, and still more", len(p.holders), held)
		}
	}
	if most := streams * clients[0].(*stream).chunk / 2; held > most {
		t.Errorf("%d streams hold %d bytes, want %d at most", streams, held, most)
	}
}

// TestGather: whatever its size and its parts, a packet is whole, and its views waste no more than a quarter.
func TestGather(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) // repeatable
	for size := 20; size < 65536; size += 1 + r.IntN(200) {
		whole := make([]byte, size)
		for i := range whole {
			whole[i] = byte(r.Uint32())
		}
		var parts [][]byte
		for rest := whole; len(rest) > 0; {
			n := min(len(rest), 20+r.IntN(1+size/3))
			parts, rest = append(parts, rest[:n]), rest[n:]
		}
		b := gather(size, parts)
		if got := b.Flatten(); !bytes.Equal(got, whole) {
			t.Fatalf("%d bytes in %d parts: not the same", size, len(parts))
		}
		room := 0
		b.SubApply(0, size, func(v *buffer.View) { room += v.Capacity() })
		if size > 4<<10 && room-size > room/4 {
			t.Errorf("%d bytes take %d", size, room)
		}
		b.Release()
	}
}
