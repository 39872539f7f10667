package relay

import (
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
	c.after(n, func() time.Time { return c.clock })
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

func TestReadsOfFewBytesNeverWait(t *testing.T) {
	c := newCoalesced()
	for range coalesceFrom/100 - 1 { // with an hour between any two
		if d := c.read(100, time.Hour); d != 0 {
			t.Fatalf("a read waits for %v", d)
		}
	}
}

// Who asks and is answered waits for nothing, however long it goes on, and nor does what comes first after an answer.
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
