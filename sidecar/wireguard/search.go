package wireguard

import (
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// How long the packets to a peer may be, found out as RFC 8899 has it: by packets of a size, inside the tunnel, that come back. What
// nobody says, as where ICMP is lost on the way, is found out too. All of it is decided here, from what was sent and answered, and when;
// probe.go sends and listens.
//
// The interface's MTU is tried first, since nearly every path takes it. Only if it is not answered smaller ones go beside it, and only
// where these are answered again and again while it is not, is the path taken for one that does not carry it: neither lost probes nor a
// peer that answers none make packets shorter. Then the sizes between are halved.
const (
	// searchFloor passes everywhere: with WireGuard's, UDP's and IPv4's headers it is the 576 bytes that every host takes.
	searchFloor = 512
	// searchStep is what WireGuard pads to: who answers pads as well, up to an MTU that we do not know.
	searchStep = 16
	// searchProof is how often a smaller packet must be answered while the longer one is not.
	searchProof = 4
	// searchTries is the same for a size between two that are known, and how often it is tried to raise the size. searchRounds bounds all
	// comparisons, and searchSilence those without any answer.
	searchRounds, searchSilence, searchTries = 10, 4, 3

	// A size is tried again while data flows: soon, if packets are long enough to be lost by it, else now and then.
	confirmLarge, confirmAny = 5 * time.Second, time.Minute
	// stallAfter is how long nothing may come back while long packets leave, before that is looked into, and stallRest how soon again.
	stallAfter, stallRest = 500 * time.Millisecond, time.Second
	// A path that takes less than the interface's MTU may take more later; each try in vain doubles how long the next one waits.
	raiseFirst, raiseMost = 30 * time.Second, 10 * time.Minute
	// silentFirst and silentMost are the same for a peer that does not answer.
	silentFirst, silentMost = 10 * time.Second, 10 * time.Minute

	// A round lasts so long, by the last answer; and after the smallest has been answered, no longer than grace, or as long as that took:
	// where much is under way all answers are late, but together.
	answerFirst, answerLeast, answerMost = time.Second, 500 * time.Millisecond, 3 * time.Second
	grace                                = 100 * time.Millisecond
)

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

// search is that of one peer. Its zero value has tried nothing. Sizes are those of inner packets in bytes.
type search struct {
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
	began   instant       // when it was sent
	until   instant       // when it is over, or, without one, when it begins; never: nothing is to be done
	trip    time.Duration // of the last answer; zero: none came, on this path or since the peer fell silent

	rested instant       // since when nothing is under way
	later  instant       // when a path that takes less is asked for more, or a silent peer is asked again
	wait   time.Duration // for that, the last time
}

// round is the sizes that are sent together; zero: none.
type round [3]int

// watched is what a search wants to be told of data packets that leave.
type watched struct {
	any, large, stalled instant // from when on: of any; of one longer than searchFloor; of one while nothing comes back
}

// unwatched wants to be told of none.
func unwatched() watched {
	const never = 1<<63 - 1
	return watched{never, never, never}
}

func (s *search) watch() watched {
	switch {
	case s.until != 0:
		return unwatched()
	case s.state == "":
		return watched{}
	}
	if s.state == datapath.MTUUnverified { // who does not answer is left alone
		return watched{s.later, s.later, s.later}
	}
	w := watched{any: s.rested.add(confirmAny), large: s.rested.add(confirmLarge), stalled: s.rested.add(stallRest)}
	if s.size < s.ceiling {
		w.any = min(w.any, s.later)
	}
	return w
}

// data takes in that a packet of data leaves, and for how long nothing has come back. It says whether something is to be sent.
func (s *search) data(now instant, ceiling, size int, silence time.Duration) bool {
	large := size > searchFloor
	switch {
	case s.until != 0 || s.state == datapath.MTUUnverified && now < s.later:
		return false
	case s.state == "" || s.state == datapath.MTUUnverified:
		s.ceiling, s.size = ceiling, min(s.size, ceiling)
		s.begin(now, trying)
	case large && now >= s.rested.add(stallRest) && silence >= max(stallAfter, 2*s.trip):
		s.doubt(now, s.size)
	case s.size < s.ceiling && now >= s.later:
		s.begin(now, raising)
	case now >= s.rested.add(confirmAny) || large && now >= s.rested.add(confirmLarge):
		s.begin(now, confirming)
	default:
		return false
	}
	return true
}

// refused takes in that the system takes packets for too long for the path. It says whether something is to be sent.
func (s *search) refused(now instant, ceiling int) bool {
	if s.until != 0 || s.state != "" && now < s.rested.add(confirmLarge) || s.state == datapath.MTUUnverified {
		return false
	}
	if s.state == "" {
		s.ceiling, s.size = ceiling, min(s.size, ceiling)
	}
	s.doubt(now, s.known())
	return true
}

// moved begins anew, on another path or with another MTU of the interface: that packets must be shorter holds until something else is
// found.
func (s *search) moved() {
	*s = search{ceiling: s.ceiling, size: s.limit()}
}

// back is told that a peer is there again that was away: if it did not answer, that may be why.
func (s *search) back(now instant) {
	if s.until == 0 && s.state == datapath.MTUUnverified {
		s.later = now
	}
}

// known is the longest that is sent now.
func (s *search) known() int {
	if s.size == 0 {
		return s.ceiling
	}
	return s.size
}

// limit is the same, but zero where the ceiling may be sent.
func (s *search) limit() int {
	if s.size < s.ceiling {
		return s.size
	}
	return 0
}

func (s *search) begin(now instant, p phase) {
	s.phase, s.rounds, s.sent, s.until = p, 0, false, now
	if s.state == "" || s.state == datapath.MTUUnverified {
		s.state = datapath.MTUSearching
	}
}

func (s *search) doubt(now instant, size int) {
	s.suspect, s.smaller = size, [2]int{}
	s.begin(now, doubting)
	s.state = datapath.MTUSearching
}

// smallerSizes are what is sent beside a suspect.
func (s *search) smallerSizes() [2]int {
	if s.suspect > datapath.MinMTU {
		return [2]int{datapath.MinMTU, searchFloor}
	}
	return [2]int{0, searchFloor}
}

// next is to be called when until has come: it judges the round that is over and says what the next one sends.
func (s *search) next(now instant) round {
	if s.until == 0 || now < s.until {
		return round{}
	}
	if s.sent {
		s.sent = false
		s.rounds++
		s.judge(now)
	}
	if s.until == 0 {
		return round{}
	}
	s.sent, s.began, s.until = true, now, now.add(s.patience())
	return s.sizes()
}

// patience is how long any answer is waited for.
func (s *search) patience() time.Duration {
	if s.trip == 0 {
		return answerFirst
	}
	return min(max(4*s.trip, answerLeast), answerMost)
}

func (s *search) sizes() round {
	switch s.phase {
	case trying:
		return round{s.ceiling, searchFloor} // the small one tells how long an answer takes
	case confirming:
		return round{s.size}
	case doubting:
		other := s.smallerSizes()
		return round{s.suspect, other[0], other[1]}
	case halving:
		return round{s.between(), searchFloor}
	case raising:
		if s.rounds < searchTries {
			return round{s.ceiling, s.above()}
		}
		return round{s.above()}
	}
	return round{}
}

// between is the next size to try while halving; zero: there is none.
func (s *search) between() int {
	n := (s.low + s.high) / 2 / searchStep * searchStep
	if n <= s.low {
		n = s.low/searchStep*searchStep + searchStep
	}
	if n >= s.high {
		return 0
	}
	return n
}

// above is the next size beyond what passes; zero: that is the ceiling.
func (s *search) above() int {
	if n := s.size/searchStep*searchStep + searchStep; n < s.ceiling {
		return n
	}
	return 0
}

// judge decides what it means that the round was not answered as it was hoped.
func (s *search) judge(now instant) {
	switch s.phase {
	case trying, confirming:
		s.doubt(now, s.known())
	case doubting:
		s.compare(now)
	case halving:
		if s.smaller[1] >= searchTries || s.rounds >= searchRounds {
			s.high = s.between()
			s.halve(now)
		}
	case raising:
		if s.rounds >= searchTries {
			s.rest(now, s.size)
			s.wait = min(max(2*s.wait, raiseFirst), raiseMost)
			s.later = now.add(s.wait)
		}
	}
}

// compare judges a round of doubt.
func (s *search) compare(now instant) {
	proof, last := searchProof, s.rounds >= searchRounds
	if last {
		proof = searchProof / 2
	}
	for i, size := range s.smallerSizes() {
		if size > 0 && s.smaller[i] >= proof {
			s.low, s.high = size, s.suspect
			s.size = size
			s.halve(now)
			return
		}
		if s.smaller[i] > 0 && !last { // it may be answered more often yet
			return
		}
	}
	if last || s.rounds >= searchSilence && s.smaller == [2]int{} {
		s.silent(now)
	}
}

// silent gives up on a peer that does not answer: what holds goes on to hold. Another of its addresses may answer the next time.
func (s *search) silent(now instant) {
	s.phase, s.sent, s.until, s.rested, s.trip = resting, false, 0, now, 0
	s.state, s.wait = datapath.MTUUnverified, min(max(2*s.wait, silentFirst), silentMost)
	s.later = now.add(s.wait)
}

// halve goes on between low and high, or rests where nothing is between them.
func (s *search) halve(now instant) {
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
func (s *search) found(now instant, size int) {
	s.rest(now, size)
	s.wait = raiseFirst
	s.later = now.add(s.wait)
}

// rest ends a search with what passes.
func (s *search) rest(now instant, size int) {
	s.phase, s.sent, s.until, s.rested = resting, false, 0, now
	s.size, s.state = size, datapath.MTUVerified
	if size < datapath.MinMTU {
		s.state = datapath.MTUBlackHole
	}
}

// answered takes in that a packet came back, of whatever round.
func (s *search) answered(now instant, size int, trip time.Duration) {
	if size > s.ceiling {
		return
	}
	s.trip = max(trip, 1)
	beside := s.sent && now.add(-trip) == s.began // of this round
	if beside && size == searchFloor {
		s.until = min(s.until, now.add(max(grace, trip)))
	}
	switch {
	case size == s.ceiling:
		s.found(now, size)
	case s.phase == halving && size >= s.high:
		s.found(now, size)
	case s.phase == halving && size == searchFloor:
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
