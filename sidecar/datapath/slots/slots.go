// Package slots counts what peers hold of something that is bounded, so that one peer cannot take what all share.
package slots

import (
	"net/netip"
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
		return
	}
	s.held[a] = h
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
