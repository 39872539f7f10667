package relay

import (
	"sync"
	"sync/atomic"
)

const (
	smallBuffer = 8 << 10
	largeBuffer = 64 << 10 // holds the largest datagram and the largest bulk write
)

// lender lends buffers of two sizes. The large ones are bounded, so that many connections that stall at once do not take the sidecar's memory: where
// less than seven eighths are left, bulk for the tunnel is not read before it can be written, and what the tunnel brings goes to applications in
// small pieces. Where none are left, as behind a tunnel that cannot say when, all use small ones.
type lender struct {
	small, large sync.Pool // *[]byte
	free         atomic.Int64
	plenty       int64 // of free ones, for all
}

func newLender(large int) *lender {
	l := &lender{
		small: sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }},
		large: sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }},
	}
	l.free.Store(int64(large))
	l.plenty = int64(large / 8 * 7)
	return l
}

// take lends a buffer, a large one where wanted and left; to who yields, where more than enough are left.
func (l *lender) take(large, yields bool) *[]byte {
	if large {
		var leave int64
		if yields {
			leave = l.plenty
		}
		if l.free.Add(-1) >= leave {
			return l.large.Get().(*[]byte)
		}
		l.free.Add(1)
	}
	return l.small.Get().(*[]byte)
}

// scarce says whether who may have to hold a buffer for long should do without.
func (l *lender) scarce() bool { return l.free.Load() <= l.plenty }

// takeAny lends a large buffer, whatever the bound: for a datagram, of which a short one would lose a part, and for what is written at once.
func (l *lender) takeAny() *[]byte {
	l.free.Add(-1)
	return l.large.Get().(*[]byte)
}

func (l *lender) give(b *[]byte) {
	if len(*b) == largeBuffer {
		l.free.Add(1)
		l.large.Put(b)
		return
	}
	l.small.Put(b)
}

// bulkSize is how many bytes one write to the tunnel should carry: a whole number of segments, as many as fit one UDP
// super-packet once encrypted (32 bytes of WireGuard around each), because the stack does not merge segments across writes.
func bulkSize(mtu int, v6 bool) int {
	mss := mtu - 40
	if v6 {
		mss -= 20
	}
	n := min(64, 65473/(mtu+32))
	return min(max(n*mss, smallBuffer), largeBuffer)
}
