package relay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"
)

func random(n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{1})
	_, _ = c.Read(b)
	return b
}

func TestHalfCloseFromClient(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		client, srv := w.pair()
		sent := random(3 << 20)
		go func() {
			_, _ = client.Write(sent)
			_ = client.CloseWrite()
		}()
		got, err := io.ReadAll(srv)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("server got %d bytes, %v", len(got), err)
		}
		// Only now does the server answer: the direction must still be open.
		time.Sleep(20 * time.Millisecond)
		must(srv.Write([]byte("answer")))
		_ = srv.Close()
		if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
			t.Fatalf("client got %q, %v", got, err)
		}
		eventually(t, "the connection is forgotten", func() bool { return w.r.Stats().Connections == 0 })
		row := w.row(Outbound, "one", TCP)
		if row.Up != uint64(len(sent)) || row.Down != 6 || row.Total != 1 || len(row.Failures) != 0 {
			t.Errorf("stats: %+v", row)
		}
	})
}

func TestHalfCloseFromServer(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		client, srv := w.pair()
		sent := random(1 << 20)
		go func() {
			_, _ = srv.Write(sent)
			_ = srv.CloseWrite()
		}()
		if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("client got %d bytes, %v", len(got), err)
		}
		must(client.Write([]byte("late")))
		_ = client.CloseWrite()
		if got, err := io.ReadAll(srv); err != nil || string(got) != "late" {
			t.Fatalf("server got %q, %v", got, err)
		}
	})
}

func abort(c *net.TCPConn) { localStream{c}.Abort() }

func TestResetIsCarried(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		client, srv := w.pair()
		abort(client)
		wantReset(t, srv)
		client, srv = w.pair()
		abort(srv)
		wantReset(t, client)
		eventually(t, "both are forgotten", func() bool { return w.r.Stats().Connections == 0 })
	})
}

func TestResetReasons(t *testing.T) {
	w := newWorld(t, kernelMode)
	client, srv := w.pair()
	abort(client)
	wantReset(t, srv)
	eventually(t, "counted", func() bool { return w.row(Outbound, "one", TCP).Failures[ResetByLocal] == 1 })
	client, srv = w.pair()
	abort(srv)
	wantReset(t, client)
	eventually(t, "counted", func() bool { return w.row(Outbound, "one", TCP).Failures[ResetByTunnel] == 1 })
}

// A half that is stalled in a write does not read: the reset of its source is found all the same.
func TestResetWhileStalled(t *testing.T) {
	for _, m := range []mode{kernelMode, waiterMode} {
		t.Run(string(m), func(t *testing.T) {
			w := newWorld(t, m)
			client, srv := w.pair()
			stall(client)
			abort(client)
			wantReset(t, srv)
			client, srv = w.pair()
			stall(srv)
			abort(srv)
			wantReset(t, client)
			// Here a write is handed the error and the read beside it sees the end: no FIN may come of that.
			for range 3 {
				client, srv = w.pair()
				stall(client)
				abort(srv)
				wantReset(t, client)
				client, srv = w.pair()
				stall(srv)
				abort(client)
				wantReset(t, srv)
			}
		})
	}
}

func TestResetAfterHalfClose(t *testing.T) {
	for _, m := range []mode{kernelMode, waiterMode} {
		t.Run(string(m), func(t *testing.T) {
			w := newWorld(t, m)
			client, srv := w.pair()
			_ = client.CloseWrite()
			if _, err := io.ReadAll(srv); err != nil {
				t.Fatal(err)
			}
			abort(client)
			eventually(t, "the connection is forgotten", func() bool { return w.r.Stats().Connections == 0 })
		})
	}
}

// stall writes until nothing more is taken and returns how much was.
func stall(c *net.TCPConn) (taken int) {
	chunk := make([]byte, 64<<10)
	for {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := c.Write(chunk)
		taken += n
		if err != nil {
			_ = c.SetWriteDeadline(time.Time{})
			return taken
		}
	}
}

// A reader that does not read stops the writer: what is taken fits the kernel's socket buffers and one chunk of ours.
func TestBackpressure(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		client, srv := w.pair()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		taken := stall(client)
		runtime.ReadMemStats(&after)
		if taken > 32<<20 {
			t.Errorf("writer got rid of %d bytes that nobody read", taken)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
			t.Errorf("heap grew by %d bytes", grown)
		}
		_ = client.CloseWrite()
		if n, err := io.Copy(io.Discard, srv); err != nil || n != int64(taken) {
			t.Errorf("server got %d of %d bytes, %v", n, taken, err)
		}
	})
}

func TestIdleConnectionsHoldNoBuffer(t *testing.T) {
	w := newWorld(t, kernelMode)
	at, conns := accepted(t)
	w.net.route(inner(1), at)
	listen := w.forward(inner(1))
	for range 50 {
		c := dial(t, listen)
		s := <-conns
		go func() { _, _ = c.Write(make([]byte, 1<<20)); _ = c.CloseWrite() }()
		_, _ = io.Copy(io.Discard, s)
	}
	eventually(t, "all large buffers are back", func() bool {
		return w.r.lender.free.Load() == int64(w.r.opts.Limits.LargeBuffers)
	})
}

func TestBothDirectionsAtOnce(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		w.net.route(inner(1), server(t, echo))
		client := dial(t, w.forward(inner(1)))
		sent := random(8 << 20)
		go func() {
			for rest := sent; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(100_000))
				if _, err := client.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
			_ = client.CloseWrite()
		}()
		h := sha256.New()
		if _, err := io.Copy(h, client); err != nil {
			t.Fatal(err)
		}
		if want := sha256.Sum256(sent); !bytes.Equal(h.Sum(nil), want[:]) {
			t.Error("bytes were changed on the way")
		}
	})
}

func TestBulkSize(t *testing.T) {
	for _, c := range []struct {
		mtu  int
		v6   bool
		want int
	}{
		{1420, false, 45 * 1380}, {1420, true, 45 * 1360}, {1280, false, 49 * 1240}, {65455, false, largeBuffer},
	} {
		if got := bulkSize(c.mtu, c.v6); got != c.want && (c.mtu != 65455 || got > largeBuffer || got < smallBuffer) {
			t.Errorf("bulkSize(%d, %v) = %d, want %d", c.mtu, c.v6, got, c.want)
		}
	}
}

func TestLenderIsBounded(t *testing.T) {
	l := newLender(1)
	a, b := l.take(true, false), l.take(true, false)
	if len(*a) != largeBuffer || len(*b) != smallBuffer {
		t.Errorf("lent %d and %d bytes", len(*a), len(*b))
	}
	l.give(a)
	l.give(b)
	if c := l.take(true, false); len(*c) != largeBuffer {
		t.Error("the large buffer did not come back")
	}
	l = newLender(8)
	if a, b := l.take(true, true), l.take(true, true); len(*a) != largeBuffer || len(*b) != smallBuffer || !l.scarce() {
		t.Errorf("who yields has %d and %d bytes, with seven of eight left, and scarce is %t", len(*a), len(*b), l.scarce())
	}
}
