package relay

import (
	"sync"
	"sync/atomic"
)

const (
	smallBuffer = 8 << 10
	largeBuffer = 64 << 10 // holds the largest datagram and the largest bulk write
)

// lender lends buffers of two sizes. The large ones are bounded: with many bulk connections stalled at once the later ones get
// small buffers, which is slower and keeps the sidecar inside its memory limit.
type lender struct {
	small, large sync.Pool // *[]byte
	free         atomic.Int64
}

func newLender(large int) *lender {
	l := &lender{
		small: sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }},
		large: sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }},
	}
	l.free.Store(int64(large))
	return l
}

// take lends a buffer, a large one where wanted and left.
func (l *lender) take(large bool) *[]byte {
	if large {
		if l.free.Add(-1) >= 0 {
			return l.large.Get().(*[]byte)
		}
		l.free.Add(1)
	}
	return l.small.Get().(*[]byte)
}

// takeDatagram lends a buffer that holds any datagram, whatever the bound: a short one would truncate.
func (l *lender) takeDatagram() *[]byte {
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
