// Package pathmtu decides how long the packets to a peer may be, for every datapath: from what is sent and answered, and when, it says what
// to try next. It has no clock, no socket and no lock of its own.
package pathmtu

import (
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// How long the packets to a peer may be, found out as RFC 8899 has it: by packets of a size, inside the tunnel, that come back. What
// nobody says, as where ICMP is lost on the way, is found out too.
//
// The interface's MTU is tried first, since nearly every path takes it. Only if it is not answered smaller ones go beside it, and only
// where these are answered again and again while it is not, is the path taken for one that does not carry it: neither lost probes nor a
// peer that answers none make packets shorter. Then the sizes between are halved.
const (
	// Floor passes everywhere: with WireGuard's, UDP's and IPv4's headers it is the 576 bytes that every host takes.
	Floor = 512
	// step is what WireGuard pads to: who answers pads as well, up to an MTU that we do not know.
	step = 16
	// proof is how often a smaller packet must be answered while the longer one is not.
	proof = 4
	// tries is the same for a size between two that are known, and how often it is tried to raise the size. mostRounds bounds all
	// comparisons, and mostSilent those without any answer.
	mostRounds, mostSilent, tries = 10, 4, 3

	// A size is tried again while data flows: soon, if packets are long enough to be lost by it, else now and then.
	confirmLarge, confirmAny = 5 * time.Second, time.Minute
	// StallAfter is how long nothing may come back while long packets leave, before that is looked into, and stallRest how soon again.
	StallAfter, stallRest = 500 * time.Millisecond, time.Second
	// A path that takes less than the interface's MTU may take more later; each try in vain doubles how long the next one waits.
	raiseFirst, raiseMost = 30 * time.Second, 10 * time.Minute
	// silentFirst and silentMost are the same for a peer that does not answer.
	silentFirst, silentMost = 10 * time.Second, 10 * time.Minute

	// A round lasts so long, by the last answer; and after the smallest has been answered, no longer than grace, or as long as that took:
	// where much is under way all answers are late, but together.
	answerFirst, answerLeast, answerMost = time.Second, 500 * time.Millisecond, 3 * time.Second
	grace                                = 100 * time.Millisecond
)

// Mark is in an echo request that is a probe, behind the 8 bytes by which who asks knows the answer, and in nobody's pings: another of ours
// answers it in one piece, whatever it knows of the way back.
const Mark = "tenantwire path\n"

// phase is what a search is about.
type phase uint8

const (
	resting    phase = iota
	trying           // the interface's MTU, for the first time on a path
	confirming       // what held before
	doubting         // suspect, with smaller ones beside it
	halving          // between low and high
	raising          // whether the path takes more by now
)

// Search is that of one peer. Its zero value has tried nothing. Sizes are those of inner packets in bytes, times are since a beginning of the
// caller's, and above zero, which means never. One goroutine at a time may use it.
type Search struct {
	ceiling int // the interface's MTU
	size    int // the longest that may be sent; zero: nothing is known, the ceiling
	state   datapath.MTUState

	phase   phase
	low     int // halving: what passes
	high    int // and what does not
	suspect int // doubting: what may not pass
	rounds  int // of this phase and size
	smaller [2]int
	sent    bool          // a round is under way
	began   time.Duration // when it was sent
	until   time.Duration // when it is over, or, without one, when it begins; never: nothing is to be done
	trip    time.Duration // of the last answer; zero: none came, on this path or since the peer fell silent

	rested time.Duration // since when nothing is under way
	later  time.Duration // when a path that takes less is asked for more, or a silent peer is asked again
	wait   time.Duration // for that, the last time
}

// Round is the sizes that are sent together; zero: none.
type Round [3]int

// Watched is what a Search wants to be told of data packets that leave.
type Watched struct {
	Any, Large, Stalled time.Duration // from when on: of any; of one longer than Floor; of one while nothing comes back
}

// Unwatched wants to be told of none.
func Unwatched() Watched {
	const never = 1<<63 - 1
	return Watched{never, never, never}
}

// Watch says what Data wants to be told of now.
func (s *Search) Watch() Watched {
	switch {
	case s.until != 0:
		return Unwatched()
	case s.state == "":
		return Watched{}
	}
	if s.state == datapath.MTUUnverified { // who does not answer is left alone
		return Watched{s.later, s.later, s.later}
	}
	w := Watched{Any: s.rested + confirmAny, Large: s.rested + confirmLarge, Stalled: s.rested + stallRest}
	if s.size < s.ceiling {
		w.Any = min(w.Any, s.later)
	}
	return w
}

// Data takes in that a packet of data leaves, and for how long nothing has come back. It says whether something is to be sent.
func (s *Search) Data(now time.Duration, ceiling, size int, silence time.Duration) bool {
	large := size > Floor
	switch {
	case s.until != 0 || s.state == datapath.MTUUnverified && now < s.later:
		return false
	case s.state == "" || s.state == datapath.MTUUnverified:
		s.ceiling, s.size = ceiling, min(s.size, ceiling)
		s.begin(now, trying)
	case large && now >= s.rested+stallRest && silence >= max(StallAfter, 2*s.trip):
		s.doubt(now, s.size)
	case s.size < s.ceiling && now >= s.later:
		s.begin(now, raising)
	case now >= s.rested+confirmAny || large && now >= s.rested+confirmLarge:
		s.begin(now, confirming)
	default:
		return false
	}
	return true
}

// Refused takes in that the system takes packets for too long for the path. It says whether something is to be sent.
func (s *Search) Refused(now time.Duration, ceiling int) bool {
	if s.until != 0 || s.state != "" && now < s.rested+confirmLarge || s.state == datapath.MTUUnverified {
		return false
	}
	if s.state == "" {
		s.ceiling, s.size = ceiling, min(s.size, ceiling)
	}
	s.doubt(now, s.Known())
	return true
}

// Moved begins anew, on another path or with another MTU of the interface: that packets must be shorter holds until something else is
// found.
func (s *Search) Moved() {
	*s = Search{ceiling: s.ceiling, size: s.Limit()}
}

// Back is told that a peer is there again that was away: if it did not answer, that may be why.
func (s *Search) Back(now time.Duration) {
	if s.until == 0 && s.state == datapath.MTUUnverified {
		s.later = now
	}
}

// Known is the longest that is sent now.
func (s *Search) Known() int {
	if s.size == 0 {
		return s.ceiling
	}
	return s.size
}

// Limit is the same, but zero where the ceiling may be sent.
func (s *Search) Limit() int {
	if s.size < s.ceiling {
		return s.size
	}
	return 0
}

// State is what is known of the path.
func (s *Search) State() datapath.MTUState {
	if s.state == "" {
		return datapath.MTUUnverified
	}
	return s.state
}

// Until is when Next is to be called; never: nothing is to be done before Data says so.
func (s *Search) Until() time.Duration { return s.until }

// Resting says that no search is under way.
func (s *Search) Resting() bool { return s.phase == resting }

// Silent says that nothing has been answered, on this path or since the peer fell silent: of several addresses another may be asked.
func (s *Search) Silent() bool { return s.trip == 0 }

// News is the limit, if it is to be told to whom told was told last: when it is found at last, and at once when it is less.
func (s *Search) News(told int) (limit int, tell bool) {
	limit = s.Limit()
	less := limit != 0 && (told == 0 || limit < told)
	return limit, limit != told && (less || s.Resting())
}

// Anew forgets that anything was answered: another address is asked.
func (s *Search) Anew() { s.trip = 0 }

// Next is to be called when Until has come: it judges the round that is over and says what the next one sends.
func (s *Search) Next(now time.Duration) Round {
	if s.until == 0 || now < s.until {
		return Round{}
	}
	if s.sent {
		s.sent = false
		s.rounds++
		s.judge(now)
	}
	if s.until == 0 {
		return Round{}
	}
	s.sent, s.began, s.until = true, now, now+s.patience()
	return s.sizes()
}

// Answered takes in that a packet came back, of whatever round.
func (s *Search) Answered(now time.Duration, size int, trip time.Duration) {
	if size > s.ceiling {
		return
	}
	s.trip = max(trip, 1)
	beside := s.sent && now-trip == s.began // of this round
	if beside && size == Floor {
		s.until = min(s.until, now+max(grace, trip))
	}
	switch {
	case size == s.ceiling:
		s.found(now, size)
	case s.phase == halving && size >= s.high:
		s.found(now, size)
	case s.phase == halving && size == Floor:
		s.smaller[1] += asInt(beside)
	case s.phase == halving && size > s.low:
		s.low = size
		s.halve(now)
	case s.phase == raising && size > s.size:
		s.low, s.high = size, s.ceiling
		s.halve(now)
	case s.phase == confirming && size >= s.size:
		s.rest(now, s.size)
	case s.phase == doubting && size >= s.suspect:
		s.rest(now, s.suspect)
	case s.phase == doubting:
		for i, other := range s.smallerSizes() {
			if size == other {
				s.smaller[i] += asInt(beside)
			}
		}
	case size > s.size && s.size > 0: // later than it was waited for
		s.low, s.high = size, s.ceiling
		s.halve(now)
	}
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
