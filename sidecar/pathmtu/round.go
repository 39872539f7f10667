package pathmtu

import (
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// How a search goes from one phase to the next: what a round sends, and what it means that it was not answered as it was hoped.

func (s *Search) begin(now time.Duration, p phase) {
	s.phase, s.rounds, s.sent, s.until = p, 0, false, now
	if s.state == "" || s.state == datapath.MTUUnverified {
		s.state = datapath.MTUSearching
	}
}

func (s *Search) doubt(now time.Duration, size int) {
	s.suspect, s.smaller = size, [2]int{}
	s.begin(now, doubting)
	s.state = datapath.MTUSearching
}

// patience is how long any answer is waited for.
func (s *Search) patience() time.Duration {
	if s.trip == 0 {
		return answerFirst
	}
	return min(max(4*s.trip, answerLeast), answerMost)
}

func (s *Search) sizes() Round {
	switch s.phase {
	case trying:
		return Round{s.ceiling, Floor} // the small one tells how long an answer takes
	case confirming:
		return Round{s.size}
	case doubting:
		other := s.smallerSizes()
		return Round{s.suspect, other[0], other[1]}
	case halving:
		return Round{s.between(), Floor}
	case raising:
		if s.rounds < tries {
			return Round{s.ceiling, s.above()}
		}
		return Round{s.above()}
	}
	return Round{}
}

// smallerSizes are what is sent beside a suspect.
func (s *Search) smallerSizes() [2]int {
	if s.suspect > datapath.MinMTU {
		return [2]int{datapath.MinMTU, Floor}
	}
	return [2]int{0, Floor}
}

// between is the next size to try while halving; zero: there is none.
func (s *Search) between() int {
	n := (s.low + s.high) / 2 / step * step
	if n <= s.low {
		n = s.low/step*step + step
	}
	if n >= s.high {
		return 0
	}
	return n
}

// above is the next size beyond what passes; zero: that is the ceiling.
func (s *Search) above() int {
	if n := s.size/step*step + step; n < s.ceiling {
		return n
	}
	return 0
}

// judge decides what it means that the round was not answered as it was hoped.
func (s *Search) judge(now time.Duration) {
	switch s.phase {
	case trying, confirming:
		s.doubt(now, s.Known())
	case doubting:
		s.compare(now)
	case halving:
		if s.smaller[1] >= tries || s.rounds >= mostRounds {
			s.high = s.between()
			s.halve(now)
		}
	case raising:
		if s.rounds >= tries {
			s.rest(now, s.size)
			s.wait = min(max(2*s.wait, raiseFirst), raiseMost)
			s.later = now + s.wait
		}
	}
}

// compare judges a round of doubt.
func (s *Search) compare(now time.Duration) {
	enough, last := proof, s.rounds >= mostRounds
	if last {
		enough = proof / 2
	}
	for i, size := range s.smallerSizes() {
		if size > 0 && s.smaller[i] >= enough {
			s.low, s.high = size, s.suspect
			s.size = size
			s.halve(now)
			return
		}
		if s.smaller[i] > 0 && !last { // it may be answered more often yet
			return
		}
	}
	if last || s.rounds >= mostSilent && s.smaller == [2]int{} {
		s.silent(now)
	}
}

// halve goes on between low and high, or rests where nothing is between them.
func (s *Search) halve(now time.Duration) {
	if s.low > s.size {
		s.size = s.low
	}
	if s.between() == 0 {
		s.found(now, s.low)
		return
	}
	s.smaller = [2]int{}
	s.begin(now, halving)
}

// found ends a search that has brought another size than before.
func (s *Search) found(now time.Duration, size int) {
	s.rest(now, size)
	s.wait = raiseFirst
	s.later = now + s.wait
}

// rest ends a search with what passes.
func (s *Search) rest(now time.Duration, size int) {
	s.phase, s.sent, s.until, s.rested = resting, false, 0, now
	s.size, s.state = size, datapath.MTUVerified
	if size < datapath.MinMTU {
		s.state = datapath.MTUBlackHole
	}
}

// silent gives up on a peer that does not answer: what holds goes on to hold. Another of its addresses may answer the next time.
func (s *Search) silent(now time.Duration) {
	s.phase, s.sent, s.until, s.rested, s.trip = resting, false, 0, now, 0
	s.state, s.wait = datapath.MTUUnverified, min(max(2*s.wait, silentFirst), silentMost)
	s.later = now + s.wait
}
