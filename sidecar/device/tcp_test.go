package device

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// families runs f for both of the node's addresses.
func families(t *testing.T, n *node, f func(t *testing.T, to netip.Addr)) {
	t.Run("v4", func(t *testing.T) { f(t, n.v4) })
	t.Run("v6", func(t *testing.T) { f(t, n.v6) })
}

// TestBulkBothWays sends 64 MiB each way at once, over both families, and compares hashes.
func TestBulkBothWays(t *testing.T) {
	size := 64 << 20
	if testing.Short() {
		size = 8 << 20
	}
	a, b := pair(t)
	served := make(chan struct{})
	accept(b, 80, func(c datapath.Stream) { exchange(t, c, size, 11, 12); served <- struct{}{} })
	families(t, b, func(t *testing.T, to netip.Addr) {
		c := dial(t, a, to, 80)
		within(t, 2*time.Minute, "exchange", func() { exchange(t, c, size, 12, 11); <-served })
	})
	if s := b.Stats(); s.RxMerged == 0 {
		t.Errorf("nothing was joined on receive: %+v", s)
	}
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

// source is an endless stream of bytes that depend on the seed alone.
func source(seed uint64) io.Reader {
	var s [32]byte
	s[0] = byte(seed)
	return rand.NewChaCha8(s)
}

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(source(seed), b)
	return b
}
