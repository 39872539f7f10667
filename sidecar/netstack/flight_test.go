package netstack

import (
	"net/netip"
	"testing"
	"time"
)

func TestPathShares(t *testing.T) {
	var ps paths
	p := ps.join(netip.MustParseAddr("10.0.0.1"))
	now := time.Unix(1000, 0)
	p.measured(300*time.Microsecond, now) // counts as a millisecond
	whole := flightRate
	var first, second int64
	if got := p.share(&first, now); got != whole {
		t.Errorf("one stream: share %d, want %d", got, whole)
	}
	if got := p.share(&second, now); got != whole/2 {
		t.Errorf("two streams: share %d, want %d", got, whole/2)
	}
	if got := p.share(&second, now.Add(time.Millisecond)); got != whole/2 {
		t.Errorf("asked again: share %d, want %d", got, whole/2)
	}
	if got := p.share(&second, now.Add(flightAge)); got != whole/2 {
		t.Errorf("a period later: share %d, want %d", got, whole/2)
	}
	if got := p.share(&second, now.Add(3*flightAge)); got != whole {
		t.Errorf("when the other no longer waits: share %d, want %d", got, whole)
	}
}

func TestPathIsMeasuredBare(t *testing.T) {
	var ps paths
	p := ps.join(netip.MustParseAddr("10.0.0.1"))
	now := time.Unix(1000, 0)
	var counted int64
	p.measured(2*time.Millisecond, now)
	p.measured(9*time.Millisecond, now.Add(time.Second)) // a queue
	if got := p.share(&counted, now); got != 2*flightRate {
		t.Errorf("share %d, want that of the shortest round trip, %d", got, 2*flightRate)
	}
	now = now.Add(pathRenewal)
	p.measured(9*time.Millisecond, now)
	if got := p.share(&counted, now); got != flightMin {
		t.Errorf("while it is measured: share %d, want %d", got, flightMin)
	}
	p.measured(5*time.Millisecond, now.Add(pathBare/2))
	now = now.Add(pathBare)
	p.measured(6*time.Millisecond, now)
	if got := p.share(&counted, now); got != 5*flightRate {
		t.Errorf("once the path has become longer: share %d, want %d", got, 5*flightRate)
	}
}

func TestPathsAreForgotten(t *testing.T) {
	var ps paths
	to := netip.MustParseAddr("10.0.0.1")
	a, b := ps.join(to), ps.join(to)
	if a != b {
		t.Error("two streams to one address have two paths")
	}
	a.leave()
	if len(ps.m) != 1 {
		t.Error("a path with a stream is gone")
	}
	b.leave()
	if len(ps.m) != 0 {
		t.Error("a path without streams is kept")
	}
}

// A round trip of a minute times the rate is more than 32 bits hold.
func TestShareOfALongPath(t *testing.T) {
	var ps paths
	p := ps.join(netip.MustParseAddr("10.0.0.1"))
	now := time.Unix(1000, 0)
	p.measured(time.Minute, now)
	var counted int64
	if got := p.share(&counted, now); got != flightMax {
		t.Errorf("share %d, want the most, %d", got, flightMax)
	}
}
