package pathmtu

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// trail is a path with a clock of its own: what is no longer than its MTU comes back after the round trip, if it is not lost.
type trail struct {
	Search
	ceiling int
	mtu     int // inner bytes
	trip    time.Duration
	lost    func() bool
	mute    bool // no echo request is answered
	now     time.Duration
	probes  int
	flying  []flying
}

type flying struct {
	size  int
	lands time.Duration
	sent  time.Duration
}

func newTrail(ceiling, mtu int) *trail {
	return &trail{ceiling: ceiling, mtu: mtu, trip: 20 * time.Millisecond, lost: func() bool { return false }, now: 1}
}

// run has data flow for so long, a packet of the longest size every ten milliseconds. Nothing comes back for them while they are lost.
func (r *trail) run(d time.Duration) {
	for end := r.now + d; r.now < end; r.now += 10 * time.Millisecond {
		for len(r.flying) > 0 && r.flying[0].lands <= r.now {
			f := r.flying[0]
			r.flying = r.flying[1:]
			r.Answered(r.now, f.size, r.now-f.sent)
		}
		r.Data(r.now, r.ceiling, max(r.Known(), 1280), 0)
		for _, size := range r.Next(r.now) {
			if size == 0 {
				continue
			}
			r.probes++
			if size <= r.mtu && !r.mute && !r.lost() && !r.lost() {
				r.flying = append(r.flying, flying{size, r.now + r.trip, r.now})
			}
		}
	}
}

// best is the longest size that a search can find on the path.
func (r *trail) best() int {
	if r.mtu >= r.ceiling {
		return r.ceiling
	}
	return max(r.mtu/step*step, Floor)
}

func (r *trail) expect(t *testing.T, what string, size int, state datapath.MTUState) {
	t.Helper()
	if r.Known() != size || r.state != state {
		t.Errorf("%s: MTU %d, path %d, ceiling %d: %d bytes, %s; want %d, %s", what, r.mtu, r.mtu, r.ceiling, r.Known(), r.state, size, state)
	}
}

func stateOf(size int) datapath.MTUState {
	if size < datapath.MinMTU {
		return datapath.MTUBlackHole
	}
	return datapath.MTUVerified
}

// TestSearchConverges finds the longest size of every path, with few probes.
func TestSearchConverges(t *testing.T) {
	for _, ceiling := range []int{1280, 1281, 1420, 1440, 8920} {
		for mtu := Floor; mtu <= ceiling+1; mtu += max(1, ceiling/700) {
			r := newTrail(ceiling, mtu)
			r.run(20 * time.Second)
			r.expect(t, "at last", r.best(), stateOf(r.best()))
			// Trying, doubting with three sizes at most, halving with three tries of each size, confirming, raising once.
			most := 2 + 3*(proof+1) + 2*tries*10 + 4 + 2*tries
			if r.probes > most {
				t.Errorf("ceiling %d, path %d: %d probes, want at most %d", ceiling, mtu, r.probes, most)
			}
			if mtu >= ceiling && r.probes > 2+4 {
				t.Errorf("ceiling %d: %d probes of a path that takes it", ceiling, r.probes)
			}
		}
	}
}

// TestSearchFollows has paths change under way: down within seconds, up within the time that a raise may take.
func TestSearchFollows(t *testing.T) {
	r := newTrail(1420, 1420)
	r.run(time.Second)
	r.expect(t, "first", 1420, datapath.MTUVerified)
	for _, mtu := range []int{1400, 1310, 1280, 1180, 600} {
		r.mtu = mtu
		r.run(confirmLarge + 8*time.Second)
		r.expect(t, "down", r.best(), stateOf(r.best()))
	}
	for _, mtu := range []int{700, 1290, 1400, 1420, 9000} {
		r.mtu = mtu
		r.run(2*raiseMost + time.Minute)
		r.expect(t, "up", r.best(), stateOf(r.best()))
	}
}

// TestSearchSurvivesLoss: lost probes do not make packets shorter than the path takes for long, nor ever on a path that loses little.
func TestSearchSurvivesLoss(t *testing.T) {
	for _, c := range []struct {
		lost  float64
		share float64 // of the time with the right size, at least
	}{{0.01, 1}, {0.05, 0.99}, {0.2, 0.85}} {
		rng := rand.New(rand.NewPCG(1, uint64(c.lost*100)))
		for _, mtu := range []int{1420, 1350} {
			r := newTrail(1420, mtu)
			r.lost = func() bool { return rng.Float64() < c.lost }
			r.run(time.Minute)
			right := 0
			const steps = 2000
			for range steps {
				r.run(time.Second)
				if r.Known() == r.best() {
					right++
				}
				if r.Known() > r.best() {
					t.Fatalf("%v lost: %d bytes on a path of %d", c.lost, r.Known(), r.mtu)
				}
			}
			if float64(right) < c.share*steps {
				t.Errorf("%v lost, path %d: %d of %d seconds with the right size; now %d", c.lost, mtu, right, steps, r.Known())
			}
		}
	}
}

// TestSearchOfTheSilent: a peer that answers nothing keeps the interface's MTU, and is asked ever more seldom.
func TestSearchOfTheSilent(t *testing.T) {
	r := newTrail(1420, 1420)
	r.mute = true
	r.run(10 * time.Second)
	r.expect(t, "mute", 1420, datapath.MTUUnverified)
	r.run(time.Hour)
	r.expect(t, "mute for an hour", 1420, datapath.MTUUnverified)
	if most := 20 * 14; r.probes > most {
		t.Errorf("%d probes in an hour, want at most %d", r.probes, most)
	}
	// It was away, and is back on a narrow path.
	r.mute, r.mtu = false, 1300
	r.Back(r.now)
	r.run(10 * time.Second)
	r.expect(t, "back", 1296, datapath.MTUVerified)
	// What was found holds when it is away again.
	r.mute = true
	r.run(time.Minute)
	r.expect(t, "away", 1296, datapath.MTUUnverified)
}

// TestSearchRests sends nothing without data, nor because of small packets more than once a minute.
func TestSearchRests(t *testing.T) {
	r := newTrail(1420, 1420)
	r.run(time.Second)
	at := r.now
	if r.until != 0 || r.Next(at+time.Hour) != (Round{}) {
		t.Error("a probe without data")
	}
	if r.Data(at+10*time.Second, 1420, 80, 0) {
		t.Error("a probe for a small packet")
	}
	if !r.Data(at+2*time.Minute, 1420, 80, 0) {
		t.Error("no probe for small packets after minutes")
	}
}

// TestSearchHeeds what hints at a path that changed: silence, what the system refuses, another endpoint, another MTU.
func TestSearchHeeds(t *testing.T) {
	for name, hint := range map[string]func(r *trail) bool{
		"silence": func(r *trail) bool { return r.Data(r.now, 1420, 1400, time.Second) },
		"refused": func(r *trail) bool { r.now += confirmLarge; return r.Refused(r.now, 1420) },
		"moved":   func(r *trail) bool { r.Moved(); return r.Data(r.now, 1420, 60, 0) },
	} {
		r := newTrail(1420, 1420)
		r.run(3 * time.Second)
		r.mtu = 1340
		if !hint(r) {
			t.Errorf("%s: not heeded", name)
		}
		r.run(4500 * time.Millisecond)
		r.expect(t, name, 1328, datapath.MTUVerified)
	}
	r := newTrail(1420, 9000)
	r.run(3 * time.Second)
	for _, mtu := range []int{8920, 1300, 1420} {
		r.ceiling = mtu
		r.Moved()
		r.run(time.Second)
		r.expect(t, "another MTU", mtu, datapath.MTUVerified)
	}
}

// FuzzSearch feeds arbitrary events: the size stays between the floor and the ceiling, and what is sent does too.
func FuzzSearch(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, events []byte) {
		var s Search
		now := time.Duration(1)
		for i, e := range events {
			now += time.Duration(e) * 40 * time.Millisecond
			size := Floor + i*int(e)%1000
			switch e % 6 {
			case 0:
				s.Data(now, 1420, size, time.Duration(e)*10*time.Millisecond)
			case 1:
				s.Answered(now, size, time.Duration(e)*time.Millisecond)
			case 2:
				s.Refused(now, 1420)
			case 3:
				s.Moved()
			case 4:
				s.Back(now)
			}
			for _, n := range s.Next(now) {
				if n != 0 && (n < Floor || n > 1420) {
					t.Fatalf("a probe of %d bytes", n)
				}
			}
			if n := s.Limit(); n != 0 && (n < Floor || n >= 1420) {
				t.Fatalf("a limit of %d bytes", n)
			}
			if s.phase != resting && s.until == 0 {
				t.Fatalf("phase %d waits for nothing", s.phase)
			}
		}
	})
}
