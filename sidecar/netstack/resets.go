package netstack

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// A reset costs more than the request that it answers: it is a packet to encrypt and to send. So one address gets a bounded number of them,
// and silence beyond: an honest peer asks again after a second, and one that floods waits, or sends in vain.
const (
	resetsPerSecond = 256
	resetsAtOnce    = 256
	resetBuckets    = 1024
)

// resets counts them by address. Addresses share buckets by a hash that nobody else knows.
type resets struct {
	mu   sync.Mutex
	seed maphash.Seed
	paid *[resetBuckets]time.Time // until when those that left are paid for; nil: none has
}

// admits says whether there may be another to the address, and counts it then.
func (r *resets) admits(to netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paid == nil {
		r.seed, r.paid = maphash.MakeSeed(), new([resetBuckets]time.Time)
	}
	paid := &r.paid[maphash.Comparable(r.seed, to)%resetBuckets]
	if paid.Before(now) {
		*paid = now
	}
	if paid.Sub(now) >= resetsAtOnce*time.Second/resetsPerSecond {
		return false
	}
	*paid = paid.Add(time.Second / resetsPerSecond)
	return true
}
