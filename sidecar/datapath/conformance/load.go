package conformance

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// held is the most that may be on its way to a reader that does not read: both ends' socket buffers at their largest, and what is
// between them.
const held = 48 << 20

// testBackpressure writes to a reader that does not read: the writer is held, what it got rid of is bounded, memory does not grow, and
// when the reader reads, every byte is there.
func testBackpressure(t *testing.T, r *room) {
	a, b := r.pair()
	read := make(chan struct{})
	got := make(chan int64, 1)
	b.accept(func(c datapath.Stream) {
		<-read
		n, _ := io.Copy(io.Discard, c)
		got <- n
		_ = c.Close()
	})
	c := a.dial(b.v4)
	before := heap()
	var sent int64
	block := make([]byte, 64<<10)
	for stalled := false; !stalled; {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(block)
		sent += int64(n)
		var e net.Error
		stalled = errors.As(err, &e) && e.Timeout()
		if err != nil && !stalled {
			t.Fatal(err)
		}
		if sent > held {
			t.Fatalf("%d bytes were taken and nobody reads", sent)
		}
	}
	if grown := heap() - before; grown > held {
		t.Errorf("%d bytes of heap for %d on their way", grown, sent)
	}
	close(read)
	_ = c.CloseWrite()
	select {
	case n := <-got:
		if n != sent {
			t.Fatalf("%d bytes arrived of %d", n, sent)
		}
	case <-time.After(patience):
		t.Fatal("the reader never saw the end")
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// testBulk sends the same number of bytes each way at once, over both families, and compares hashes.
func testBulk(t *testing.T, r *room) {
	size := short(64<<20, 1<<20)
	a, b := r.pair()
	served := make(chan struct{})
	b.accept(func(c datapath.Stream) { exchange(t, c, size, 11, 12); served <- struct{}{} })
	families(t, b, func(r *room, to netip.Addr) {
		c := a.dial(to)
		within(r.t, "exchange", func() { exchange(r.t, c, size, 12, 11); <-served })
	})
}

// exchange writes random bytes of one seed while it reads and checks those of another.
func exchange(t *testing.T, c datapath.Stream, size int, out, in uint64) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := io.Copy(c, io.LimitReader(source(out), int64(size))); err != nil {
			t.Errorf("write: %v", err)
		}
		_ = c.CloseWrite()
	})
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, c)
	if err != nil || n != int64(size) {
		t.Errorf("read %d of %d bytes: %v", n, size, err)
	}
	_, _ = io.Copy(want, io.LimitReader(source(in), int64(size)))
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("other bytes came than were sent")
	}
	wg.Wait()
}

// testShortConnections makes many connections that say one thing each: none fails and nothing of them stays.
func testShortConnections(t *testing.T, r *room) {
	const workers = 8
	each := short(10000, 400) / workers
	a, b := r.pair()
	b.accept(echo)
	before := runtime.NumGoroutine()
	failed := make(chan error, workers)
	for w := range workers {
		go func() {
			for i := range each {
				if err := once(r, a, b, fmt.Sprint(w, i)); err != nil {
					failed <- fmt.Errorf("connection %d of worker %d: %w", i, w, err)
					return
				}
			}
			failed <- nil
		}()
	}
	for range workers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	r.eventually("the connections' goroutines end", func() bool { return runtime.NumGoroutine() <= before+2*workers })
}

func once(r *room, a, b *node, words string) error {
	c, err := a.DialTCP(r.t.Context(), netip.AddrPortFrom(b.v4, 80))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, words); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != words {
		err = fmt.Errorf("got %q, want %q", got, words)
	}
	return err
}
