package relay

import (
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// coalesced is a coalescer with a clock of its own.
type coalesced struct {
	*coalescer
	replies atomic.Uint32
	clock   time.Time
}

func newCoalesced() *coalesced {
	c := &coalesced{clock: time.Unix(1, 0)}
	c.coalescer = &coalescer{replies: &c.replies}
	return c
}

// read is a read of n bytes, some time after the last, and how long it waited.
func (c *coalesced) read(n int, later time.Duration) time.Duration {
	d := c.before()
	c.clock = c.clock.Add(later)
	c.after(n, false, c.clock)
	return d
}

func TestReadsWaitInLongTransfers(t *testing.T) {
	c := newCoalesced()
	for at := time.Duration(0); at <= coalesceAfter; at += 200 * time.Microsecond {
		if d := c.read(1408, 200*time.Microsecond); d != 0 {
			t.Fatalf("a read waits for %v, %v after the first", d, at)
		}
	}
	if d := c.read(20<<10, 0); d != coalesceWait {
		t.Errorf("in the middle of a transfer a read waits for %v, want %v", d, coalesceWait)
	}
	if d := c.read(1408, 0); d != 0 {
		t.Errorf("after much was read a read waits for %v", d)
	}
	if d := c.read(1408, 0); d != coalesceWait {
		t.Errorf("after little was read a read waits for %v, want %v", d, coalesceWait)
	}
}

// Messages with time between them wait for nothing, however many there have been.
func TestSilenceEndsARun(t *testing.T) {
	c := newCoalesced()
	for range 3 * coalesceFrom / 100 {
		if d := c.read(100, 2*coalesceGap); d != 0 {
			t.Fatalf("a read waits for %v", d)
		}
	}
}

// A buffer that is full says nothing about what is left, however small it is.
func TestFullBuffersNeverWait(t *testing.T) {
	c := newCoalesced()
	for range 1000 {
		c.clock = c.clock.Add(time.Millisecond)
		c.after(smallBuffer, true, c.clock)
		if d := c.before(); d != 0 {
			t.Fatalf("after a full buffer a read waits for %v", d)
		}
	}
}

// Who asks and is answered is not kept waiting, however long it goes on.
func TestDialoguesNeverWait(t *testing.T) {
	for name, question := range map[string][]int{
		"short questions": {100},
		"long ones":       {16 << 10, 60 << 10, 300 << 10, 1408},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCoalesced()
			for range 1000 {
				for _, n := range question {
					if d := c.read(n, 4*time.Millisecond); d != 0 {
						t.Fatalf("a read waits for %v", d)
					}
				}
				c.replies.Add(1)
			}
		})
	}
}

func TestReplyEndsARun(t *testing.T) {
	c := newCoalesced()
	for range 100 {
		c.read(1408, time.Millisecond)
	}
	if d := c.before(); d != coalesceWait {
		t.Fatalf("in the middle of a transfer a read waits for %v, want %v", d, coalesceWait)
	}
	c.replies.Add(1)
	for range coalesceFrom / 1408 {
		if d := c.read(1408, 0); d != 0 {
			t.Fatalf("after a reply a read waits for %v", d)
		}
	}
}

// A transfer of small pieces through a relay is read with waits, of at least a millisecond each, and a reset is carried all the same.
func TestLongTransferWaits(t *testing.T) {
	w := newWorld(t, singlyMode)
	client, srv := w.pair()
	piece := make([]byte, 1408)
	step := func() {
		must(srv.Write(piece))
		must(io.ReadFull(client, piece))
	}
	const steps = 50
	slow := func() bool { // unless this machine stood still for so long that the run has ended
		for begun, sent := time.Now(), 0; sent < coalesceFrom || time.Since(begun) < coalesceAfter; sent += len(piece) {
			step()
		}
		begun := time.Now()
		for range steps {
			step()
		}
		return time.Since(begun) >= (steps-1)*coalesceWait
	}
	waits := false
	for try := 0; try < 20 && !waits; try++ {
		waits = slow()
	}
	if !waits {
		t.Errorf("%d reads take less than %v: they do not wait", steps, (steps-1)*coalesceWait)
	}
	abort(srv)
	wantReset(t, client)
}

// The relay tells the reads of one direction of the writes of the other.
func TestDialogueThroughRelayHasNoRun(t *testing.T) {
	w := newWorld(t, singlyMode)
	client, srv := w.pair()
	piece := make([]byte, 1408)
	for range 2 * coalesceFrom / len(piece) {
		must(srv.Write(piece))
		must(io.ReadFull(client, piece))
		must(client.Write(piece))
		must(io.ReadFull(srv, piece))
	}
	var p *pipe
	w.r.watcher.mu.Lock()
	for each := range w.r.watcher.pipes {
		p = each
	}
	w.r.watcher.mu.Unlock()
	_ = client.CloseWrite()
	_ = srv.CloseWrite()
	eventually(t, "the connection is forgotten", func() bool { return w.r.Stats().Connections == 0 })
	if run := p.down.in.pace.run; run > len(piece) {
		t.Errorf("a dialogue has a run of %d bytes, want one message", run)
	}
}
