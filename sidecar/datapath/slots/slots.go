// Package slots counts what peers hold of something that is bounded, so that one peer cannot take what all share.
package slots

import (
	"net/netip"
	"sync"
)

// Slots counts in all and by inner source address.
type Slots struct {
	mu      sync.Mutex
	total   int
	perPeer int
	used    int
	by      map[netip.Addr]int
}

// New allows total slots in all and perPeer for one address.
func New(total, perPeer int) *Slots {
	return &Slots{total: total, perPeer: perPeer, by: make(map[netip.Addr]int)}
}

// Take takes a slot for the peer if there is one.
func (s *Slots) Take(peer netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used >= s.total || s.by[peer] >= s.perPeer {
		return false
	}
	s.used++
	s.by[peer]++
	return true
}

// Give returns the peer's slot.
func (s *Slots) Give(peer netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.by[peer]--; s.by[peer] <= 0 {
		delete(s.by, peer)
	}
}
