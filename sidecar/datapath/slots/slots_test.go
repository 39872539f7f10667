package slots

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n >> 8), 0, byte(n)}) }

// bySite takes the addresses of one 10.n.0.0/16 for one peer's.
func bySite(a netip.Addr) netip.Addr { b := a.As4(); return netip.AddrFrom4([4]byte{10, b[1]}) }

func TestBounds(t *testing.T) {
	s := New(5, 2)
	s.GroupBy(bySite)
	for i, c := range []struct {
		address int
		want    bool
	}{{1, true}, {2, true}, {3, false}, {0x101, true}, {0x102, true}, {0x103, false}, {0x201, true}, {0x301, false}} {
		if got := s.Take(address(c.address)); got != c.want {
			t.Errorf("%d: took %v", i, got)
		}
	}
	s.Give(address(1))
	if !s.Take(address(3)) {
		t.Error("what was given back is not there for the peer's next address")
	}
	s.BoundBy(func(netip.Addr) int { return 3 })
	s.Give(address(0x201))
	if !s.Take(address(4)) {
		t.Error("the new bound is not kept")
	}
	unbounded := New(0, 0)
	for range 2 {
		if !unbounded.Take(address(1)) {
			t.Error("zero is a bound")
		}
	}
}

// TestOwnersChange: whoever an address belongs to meanwhile, it gives back to whom it took from, and nothing is left of it.
func TestOwnersChange(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a test wants to be repeatable
	s := New(40, 7)
	var taken []netip.Addr
	for range 20_000 {
		switch {
		case r.IntN(50) == 0:
			n := byte(1 + r.IntN(7))
			s.GroupBy(func(a netip.Addr) netip.Addr { b := a.As4(); return netip.AddrFrom4([4]byte{10, b[3] % n}) })
		case r.IntN(2) == 0:
			if a := address(r.IntN(30)); s.Take(a) {
				taken = append(taken, a)
			}
		case len(taken) > 0:
			i := r.IntN(len(taken))
			s.Give(taken[i])
			taken[i] = taken[len(taken)-1]
			taken = taken[:len(taken)-1]
		}
		for p, n := range s.by {
			if n < 1 || n > 7 {
				t.Fatalf("%s has %d", p, n)
			}
		}
		if s.used != len(taken) {
			t.Fatalf("%d used, %d taken", s.used, len(taken))
		}
	}
	for _, a := range taken {
		s.Give(a)
	}
	s.Give(address(1)) // once too often
	if s.used != 0 || len(s.by) != 0 || len(s.held) != 0 {
		t.Errorf("left: %d, %v, %v", s.used, s.by, s.held)
	}
}

func TestHeaviest(t *testing.T) {
	s := New(0, 0)
	s.GroupBy(bySite)
	if s.Heaviest()(address(1)) {
		t.Error("somebody who has nothing")
	}
	for _, n := range []int{1, 0x101, 0x102, 0x201} {
		s.Take(address(n))
	}
	heaviest := s.Heaviest()
	for n, want := range map[int]bool{1: false, 0x101: true, 0x102: true, 0x103: false, 0x201: false} {
		if heaviest(address(n)) != want {
			t.Errorf("%s: %v", address(n), !want)
		}
	}
}

// TestManyPeers: where many peers come from the same addresses, the total alone bounds what these hold.
func TestManyPeers(t *testing.T) {
	s := New(5, 2)
	s.GroupBy(func(a netip.Addr) netip.Addr {
		if a == address(1) || a == address(2) {
			return netip.Addr{}
		}
		return a
	})
	for i, c := range []struct {
		address int
		want    bool
	}{{1, true}, {1, true}, {2, true}, {3, true}, {1, true}, {1, false}, {4, false}} {
		if got := s.Take(address(c.address)); got != c.want {
			t.Errorf("%d: took %v", i, got)
		}
	}
	heaviest, same, other := s.Heaviest(), s.PeerOf(address(1)), s.PeerOf(address(4))
	for n, want := range map[int]bool{1: true, 2: true, 3: false, 4: false} {
		if heaviest(address(n)) != want || same(address(n)) != want || other(address(n)) {
			t.Errorf("%s is taken for another", address(n))
		}
	}
}

// TestBecomesMany: once many come from an address, what it has of before is no bound.
func TestBecomesMany(t *testing.T) {
	s := New(0, 1)
	if !s.Take(address(1)) || s.Take(address(1)) {
		t.Fatal("not one")
	}
	s.GroupBy(func(netip.Addr) netip.Addr { return netip.Addr{} })
	for range 3 {
		if !s.Take(address(1)) {
			t.Fatal("it is held to the bound of one peer")
		}
	}
}

// TestBoundBy: each peer has the bound that is its own at the time, and keeps what it has.
func TestBoundBy(t *testing.T) {
	s, most := New(0, 1), map[netip.Addr]int{address(1): 3, address(2): 2}
	s.BoundBy(func(a netip.Addr) int { return most[a] })
	count := func(n int) (taken int) {
		for taken < 9 && s.Take(address(n)) {
			taken++
		}
		return taken
	}
	if a, b, c := count(1), count(2), count(3); a != 3 || b != 2 || c != 9 {
		t.Errorf("took %d, %d and %d, want 3, 2 and 9", a, b, c)
	}
	most[address(1)], most[address(2)] = 1, 4
	if a, b := count(1), count(2); a != 0 || b != 2 {
		t.Errorf("took %d and %d more, want 0 and 2", a, b)
	}
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(0, 1)
		s.GroupBy(bySite)
		s.Take(address(1))
		served := make(chan int, 4)
		for i := range 3 {
			go func() {
				if s.Await(t.Context(), address(1+i)) {
					served <- i
				}
			}()
			synctest.Wait()
		}
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if s.Await(late, address(1)) {
			t.Error("served beyond the bound")
		}
		if !s.Await(t.Context(), address(0x101)) {
			t.Error("another peer has to wait")
		}
		s.Give(address(0x101)) // nothing that those of the first peer could have
		synctest.Wait()
		if len(served) != 0 {
			t.Error("served with another peer's slot")
		}
		for want := range 3 {
			s.Give(address(max(want, 1)))
			if got := <-served; got != want {
				t.Errorf("%d was served, want %d: who came first", got, want)
			}
			synctest.Wait()
			if len(served) != 0 {
				t.Error("one slot was given to two")
			}
		}
		s.Give(address(3))
		if len(s.line) != 0 || s.used != 0 {
			t.Errorf("%d wait and %d are used at the end", len(s.line), s.used)
		}
	})
}

// TestAwaitWhileItEnds: what is given to who gives up at that moment is not lost.
func TestAwaitWhileItEnds(t *testing.T) {
	s := New(0, 2)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 2000 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%7)*time.Microsecond)
				if s.Await(ctx, address(1)) {
					s.Give(address(1))
				}
				cancel()
			}
		})
	}
	all.Wait()
	if len(s.line) != 0 || s.used != 0 {
		t.Errorf("%d wait and %d are used at the end", len(s.line), s.used)
	}
}
