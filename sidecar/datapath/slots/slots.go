// Package slots counts what peers hold of something that is bounded, so that one peer cannot take what all share.
package slots

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// Slots counts in all and by peer. A peer may have many addresses: GroupBy says which are one's.
type Slots struct {
	mu      sync.Mutex
	total   int
	perPeer int
	used    int
	peerOf  func(netip.Addr) netip.Addr
	most    func(netip.Addr) int // instead of perPeer, if it is set
	by      map[netip.Addr]int   // by the address that stands for a peer
	held    map[netip.Addr]holding
	line    []*waiting
}

// waiting is who waits for a slot. Its channel is closed once it has one.
type waiting struct {
	address netip.Addr
	served  chan struct{}
}

// holding is what one address has. Whose it is stays as it was when it took the first: what it gives back must be given to the same.
type holding struct {
	peer netip.Addr
	n    int
}

// New allows total slots in all and perPeer for one peer. Zero is no bound. Each address is a peer's of its own.
func New(total, perPeer int) *Slots {
	return &Slots{total: total, perPeer: perPeer, by: make(map[netip.Addr]int), held: make(map[netip.Addr]holding)}
}

// GroupBy sets what finds the address that stands for all of a peer's; nil: each stands for itself. The zero address stands for those from
// which many peers come: no more than the total bounds what these hold.
func (s *Slots) GroupBy(peerOf func(netip.Addr) netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peerOf = peerOf
}

// BoundBy sets what finds how many the peer of an address may have, in place of what New was told; zero is no bound. It may change its
// mind: what a peer has stays. It must not block.
func (s *Slots) BoundBy(most func(netip.Addr) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = most
}

// Take takes a slot for the peer of the address if there is one.
func (s *Slots) Take(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(a)
}

// Await takes a slot for the peer of the address, and waits for it until ctx ends: then it says false. Of those who could have the same slot, who
// came first gets it.
func (s *Slots) Await(ctx context.Context, a netip.Addr) bool {
	s.mu.Lock()
	if s.take(a) {
		s.mu.Unlock()
		return true
	}
	w := &waiting{a, make(chan struct{})}
	s.line = append(s.line, w)
	s.mu.Unlock()
	select {
	case <-w.served:
		return true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.line)
	s.line = slices.DeleteFunc(s.line, func(o *waiting) bool { return o == w })
	return len(s.line) == before // it was served meanwhile
}

// serve gives what is free to who waits for it.
func (s *Slots) serve() {
	s.line = slices.DeleteFunc(s.line, func(w *waiting) bool {
		if !s.take(w.address) {
			return false
		}
		close(w.served)
		return true
	})
}

func (s *Slots) take(a netip.Addr) bool {
	h, known := s.held[a]
	peer := s.find(a)
	if !known {
		h.peer = peer
	}
	if full(s.used, s.total) || peer.IsValid() && full(s.by[h.peer], s.mostOf(a)) {
		return false
	}
	h.n++
	s.held[a] = h
	s.used++
	s.by[h.peer]++
	return true
}

func full(n, most int) bool { return most > 0 && n >= most }

func (s *Slots) mostOf(a netip.Addr) int {
	if s.most == nil {
		return s.perPeer
	}
	return s.most(a)
}

func (s *Slots) find(a netip.Addr) netip.Addr {
	if s.peerOf == nil {
		return a
	}
	return s.peerOf(a)
}

// Give returns a slot of the address.
func (s *Slots) Give(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[a]
	if h.n == 0 {
		return
	}
	s.used--
	if s.by[h.peer]--; s.by[h.peer] <= 0 {
		delete(s.by, h.peer)
	}
	if h.n--; h.n == 0 {
		delete(s.held, a)
	} else {
		s.held[a] = h
	}
	s.serve()
}

// Heaviest is a function that says whether an address is of the peer that has the most.
func (s *Slots) Heaviest() func(netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var peer netip.Addr
	for p, n := range s.by {
		if most := s.by[peer]; n > most || n == most && p.Less(peer) {
			peer = p
		}
	}
	return s.heldBy(peer)
}

// PeerOf is a function that says whether an address is of the same peer as the given one, and holds something.
func (s *Slots) PeerOf(a netip.Addr) func(netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, known := s.held[a]; known {
		return s.heldBy(h.peer)
	}
	return s.heldBy(s.find(a))
}

func (s *Slots) heldBy(peer netip.Addr) func(netip.Addr) bool {
	return func(a netip.Addr) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.held[a].n > 0 && s.held[a].peer == peer
	}
}
