package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// testFlush closes a device as soon as it has flushed what was written to a connection that is closed: a slow reader gets all of it.
func testFlush(t *testing.T, r *room) {
	a, b := r.pair()
	const size = 4 << 20
	written := make(chan error, 1)
	b.accept(func(c datapath.Stream) {
		_, _ = io.ReadAll(c) // the question and its end: the answer's end is that of the connection
		_, err := c.Write(random(size, 5))
		written <- errors.Join(err, c.Close())
	})
	c := a.dial(b.v4)
	_, _ = io.WriteString(c, "question")
	_ = c.CloseWrite()
	type result struct {
		b   []byte
		err error
	}
	got := make(chan result, 1)
	go func() {
		in, err := io.ReadAll(slow{c})
		got <- result{in, err}
	}()
	within(t, "the answer to be written", func() {
		if err := <-written; err != nil {
			t.Error(err)
		}
	})
	if err := b.Flush(r.ctx(patience)); err != nil {
		t.Error(err)
	}
	b.close()
	if answer := <-got; answer.err != nil || !bytes.Equal(answer.b, random(size, 5)) {
		t.Fatalf("%d bytes of the answer of %d, %v", len(answer.b), size, answer.err)
	}
}

// slow reads 64 KiB at a time with a pause before each.
type slow struct{ io.Reader }

func (s slow) Read(b []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return s.Reader.Read(b[:min(len(b), 64<<10)])
}

// testFlushEnds has a device flush what nobody takes: it waits no longer than it may, and neither does Close. Where nothing is left there is no wait.
func testFlushEnds(t *testing.T, r *room) {
	a, b := r.pair()
	if err := b.Flush(r.ctx(patience)); err != nil {
		t.Error(err)
	}
	closed := make(chan struct{})
	b.accept(func(c datapath.Stream) {
		defer close(closed)
		_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		_, _ = io.Copy(c, source(6))
		_ = c.Close()
	})
	c := a.dial(b.v4)
	defer c.Close()
	within(t, "a write to who does not read to give up", func() { <-closed })
	if err := b.Flush(r.ctx(100 * time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush: %v, want %v", err, context.DeadlineExceeded)
	}
	within(t, "the device to close", b.close)
}
