package netstack

import (
	"net/netip"
	"testing"
	"time"
)

func TestPathTotal(t *testing.T) {
	var ps paths
	p := ps.join(netip.MustParseAddr("10.0.0.1"))
	now := time.Unix(1000, 0)
	p.measured(300*time.Microsecond, now) // counts as a millisecond
	check := func(what string, at time.Time, want int) {
		t.Helper()
		if got := p.total(at); got != want {
			t.Errorf("%s: %d bytes, want %d", what, got, want)
		}
	}
	check("a short path", now, flightRate)
	p.requested = now
	check("beside a request", now.Add(requestAge-1), flightRate-flightSpare)
	check("once there are none", now.Add(requestAge), flightRate)
}

func TestPathIsMeasuredBare(t *testing.T) {
	var ps paths
	p := ps.join(netip.MustParseAddr("10.0.0.1"))
	now := time.Unix(1000, 0)
	p.measured(2*time.Millisecond, now)
	p.measured(9*time.Millisecond, now.Add(time.Second)) // a queue
	if got := p.total(now); got != 2*flightRate {
		t.Errorf("total %d, want that of the shortest round trip, %d", got, 2*flightRate)
	}
	now = now.Add(pathRenewal)
	p.measured(9*time.Millisecond, now)
	if got := p.total(now); got > 0 {
		t.Errorf("while it is measured: total %d, want one message", got)
	}
	if got := p.total(now.Add(pathBare)); got != 2*flightRate {
		t.Errorf("once that has taken long enough: total %d, want %d", got, 2*flightRate)
	}
	p.measured(5*time.Millisecond, now.Add(pathBare/2))
	now = now.Add(pathBare)
	p.measured(6*time.Millisecond, now)
	if got := p.total(now); got != 5*flightRate {
		t.Errorf("once the path has become longer: total %d, want %d", got, 5*flightRate)
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
func TestTotalOfALongPath(t *testing.T) {
	var ps paths
	p := ps.join(netip.MustParseAddr("10.0.0.1"))
	now := time.Unix(1000, 0)
	p.measured(time.Minute, now)
	if got := p.total(now); got != flightMax {
		t.Errorf("total %d, want the most, %d", got, flightMax)
	}
}
