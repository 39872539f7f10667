package conformance

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// held is the most that may be on its way to a reader that does not read: both ends' socket buffers at their largest, and what is
// between them.
const held = 48 << 20

// budget is the most memory that a sidecar may take, whatever its streams do.
const budget = 64 << 20

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
	sent, err := fill(c)
	if err != nil {
		t.Fatal(err)
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

// fill writes until nothing is taken for a second.
func fill(c net.Conn) (sent int64, err error) {
	block := make([]byte, 64<<10)
	for sent <= held {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(block)
		sent += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
	return sent, fmt.Errorf("%d bytes were taken and nobody reads", sent)
}

// testManyStalled has a hundred readers stop at once, after each has read for a while, so that its window has grown. What both ends keep for
// them together, and the garbage that it makes, is held to what one sidecar may have. What a kernel keeps in its sockets is not in it: that is
// for the kernel's settings to say.
func testManyStalled(t *testing.T, r *room) {
	warm := int64(short(1<<20, 64<<10))
	a, b := r.pair()
	warmed, got, read := make(chan int64, stalledStreams), make(chan int64, stalledStreams), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(read) })
	defer goOn()
	b.accept(func(c datapath.Stream) {
		n, _ := io.CopyN(io.Discard, c, warm)
		warmed <- n
		<-read
		n, _ = io.Copy(io.Discard, c)
		got <- n
		_ = c.Close()
	})
	debug.FreeOSMemory()
	before, live := resident(), heap()
	streams := make([]datapath.Stream, stalledStreams)
	for i := range streams {
		streams[i] = a.dial(b.v4)
	}
	each := func(f func(datapath.Stream) (int64, error)) int64 { return total(t, streams, f) }
	each(func(c datapath.Stream) (int64, error) { return io.Copy(deadlined{c}, io.LimitReader(source(1), warm)) })
	sum(t, "the readers read", warmed)
	sent := each(func(c datapath.Stream) (int64, error) { return fill(c) })
	if grown := resident() - before; grown > budget {
		t.Errorf("%d bytes of memory for %d that %d readers do not read", grown, sent, stalledStreams)
	}
	if grown := heap() - live; grown > held {
		t.Errorf("%d bytes of heap for %d that %d readers do not read", grown, sent, stalledStreams)
	}
	goOn()
	each(func(c datapath.Stream) (int64, error) { return 0, c.CloseWrite() })
	if n := sum(t, "the readers see the end", got); n != sent {
		t.Errorf("%d bytes arrived of %d", n, sent)
	}
}

const stalledStreams = 100

// total does the same with all streams at once, and adds up what comes of it.
func total(t *testing.T, streams []datapath.Stream, f func(datapath.Stream) (int64, error)) int64 {
	t.Helper()
	var all atomic.Int64
	var wg sync.WaitGroup
	for _, c := range streams {
		wg.Go(func() {
			n, err := f(c)
			if err != nil {
				t.Error(err)
			}
			all.Add(n)
		})
	}
	wg.Wait()
	return all.Load()
}

// sum adds up what each of the streams' readers says.
func sum(t *testing.T, what string, said <-chan int64) (all int64) {
	t.Helper()
	for range stalledStreams {
		select {
		case n := <-said:
			all += n
		case <-time.After(patience):
			t.Fatal("never: " + what)
		}
	}
	return all
}

// deadlined gives each write a deadline of its own.
type deadlined struct{ net.Conn }

func (d deadlined) Write(b []byte) (int, error) {
	_ = d.SetWriteDeadline(time.Now().Add(patience))
	return d.Conn.Write(b)
}

// resident is what Go has of the system's memory: the heap with its garbage, stacks, and its own.
func resident() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
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
