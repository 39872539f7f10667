package wireguard

import "sync"

// entry is what one of our indices stands for: a session, or, without one, a handshake of the peer's.
type entry struct {
	peer    *peer
	session *session
}

// index knows what the indices mean that peers address us by.
type index struct {
	mark    indexMark
	mu      sync.RWMutex
	entries map[uint32]entry
}

// add gives the entry an index that nobody can guess, and that tells us again whose it was.
func (x *index) add(e entry) uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	for {
		n := x.mark.index(e.peer.tag)
		if _, taken := x.entries[n]; !taken {
			x.entries[n] = e
			return n
		}
	}
}

func (x *index) replace(n uint32, e entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.entries[n] = e
}

func (x *index) lookup(n uint32) entry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.entries[n]
}

func (x *index) drop(n uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.entries, n)
}

// dropSession drops the index of a session that is over, if there is one.
func (x *index) dropSession(s *session) {
	if s != nil {
		x.drop(s.local)
		s.stopWaiting()
	}
}
