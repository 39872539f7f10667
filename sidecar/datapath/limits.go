package datapath

import (
	"net/netip"
	"time"
)

// Limits bound what each Outside peer can take of an interface that all share. A zero field bounds nothing.
type Limits struct {
	Bandwidth  int64 // bits per second of WireGuard packets, in each direction
	Handshakes int   // that a peer may begin in a minute; as many at once after a minute of none
}

// A peer may exceed its bandwidth for a moment: by what passes in BurstTime, or by BurstBytes where that
// is more. A TCP that loses the end of what it sent is silent for 200 ms; what the bucket does not hold of that time is lost to it.
const (
	BurstTime  = 300 * time.Millisecond
	BurstBytes = 64 << 10
)

// Limiter is a Datapath that keeps Limits. They may change at any time; what a peer has used stays used. After an error they are as they were.
type Limiter interface {
	SetLimits(Limits) error
}

// Grouper is a Datapath that bounds what the addresses of one peer hold together; until it knows which are, it takes each address
// for a peer.
type Grouper interface {
	// GroupBy sets what finds the address that stands for all of a peer's; the zero address is no peer's, and not bounded as one. It
	// must not block.
	GroupBy(func(netip.Addr) netip.Addr)
}
