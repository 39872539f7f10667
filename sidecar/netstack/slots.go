package netstack

import (
	"net/netip"
	"sync"
)

// slots counts what peers hold, in all and by inner source address.
type slots struct {
	mu      sync.Mutex
	total   int
	perPeer int
	used    int
	by      map[netip.Addr]int
}

func newSlots(total, perPeer int) slots {
	return slots{total: total, perPeer: perPeer, by: make(map[netip.Addr]int)}
}

// take takes a slot for the peer if there is one.
func (s *slots) take(peer netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used >= s.total || s.by[peer] >= s.perPeer {
		return false
	}
	s.used++
	s.by[peer]++
	return true
}

// give returns the peer's slot.
func (s *slots) give(peer netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.by[peer]--; s.by[peer] <= 0 {
		delete(s.by, peer)
	}
}
