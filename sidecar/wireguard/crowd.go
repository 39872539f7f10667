package wireguard

import (
	"hash/maphash"
	"math"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Whoever sends faster than a reader works fills its socket, and what then comes is lost, whoever it is from: one peer at full rate left
// the others next to nothing. So from when the system says that the socket overflowed, the reader counts what each sender has it do. While
// it overflows, the level falls: what a sender may have of each round. Of a sender above the level as much is refused as is above it, packets
// singly and evenly, so that a TCP finds its rate; that costs a small part of the work, so the reader catches up. Senders below the level
// are not touched. While nothing overflows the level rises, until nobody is above it; then it is gone. A reader that keeps up pays one
// comparison a message.
//
// A sender is a peer, and is refused before its packets are decrypted. What a peer passes on for many, as a gateway does, is shared by
// whoever is at the inner source address, and refused between decryption and delivery: that is the dear part where it ends.
//
// A reader that the machine lets wait for a millisecond finds the socket full of a flood all the same, and loses what came then. So of
// peers of which much is refused the system refuses most, before it takes room in the socket (the sieve).
const (
	roundTime  = 10 * time.Millisecond
	crowdedFor = 10 * time.Second // after the last overflow
	firstLook  = 5                // rounds that are counted before there is a level
	packetWork = 512              // bytes whose work is that of a packet, whatever its size
	smoothing  = 8                // rounds that a sender's rate is taken over
	forgets    = 1.0 / 512        // in a round, of the most that was carried
)

// How full a socket may be: above the first it overflows, or did while nobody looked; above the second it will, unless less comes.
const (
	nearlyFull = 15.0 / 16
	wellFilled = 3.0 / 4
	ratherFull = 1.0 / 2 // where it overflowed a moment ago
)

// How the level moves in a round. A first fall is slight, as an honest sender slows down then by itself; while it overflows, each is four
// times the one before; and what is refused already says how far off the level may be. Below the lowest it would not help: what is left is
// the work of reading.
const (
	leastFall = 1.0 / 1024
	mostFall  = 1.0 / 2
	rise      = 1.0 / 64
	lowest    = 1.0 / 32 // of the highest rate
	recovery  = 1.0 / 8  // the rise while less is carried than can be
)

// Who slows down for what gets lost is to be left to it. TCP streams that fill the socket lose little of what they send, and refusals of
// ten milliseconds at a time, sooner than they can hear of them, made of ten that had 2,000 Mbit/s together some 100. So a level falls only
// while a part is lost or refused that honest senders do not cause, and rises fast where less than half of what could be is carried, unless so
// much is refused that somebody does not care.
const (
	tolerable = 1.0 / 16
	careless  = 1.0 / 2
)

// What the system refuses.
const (
	sieveSeen  = 4  // times its part comes through, to see what there is
	sieveEvery = 10 // rounds, until it is set anew
	sieveFor   = 3 * sieveEvery * roundTime
	mostHeavy  = 64 // that are looked at for it
)

// crowd is what the senders of one reader share. Only the reader touches it.
type crowd struct {
	until    instant // it is looked at
	lost     uint32  // packets that the socket had no room for, as last told
	round    int64
	looked   int     // rounds since it began
	fill     float64 // part of the socket's room that is taken, and that was at the end of the last round
	filledAs float64
	over     bool    // the socket overflowed in this round
	level    float64 // work of a round; zero: none
	fall     float64
	most     float64 // the highest rate in the last round, and so far in this
	peak     float64
	stray    float64 // work in this round that is no sender's
	flow     flow

	heavy  []*peer // since the sieve was last set, of which some is refused
	sieved []*peer // those that the sieve is for
	set    int64   // the round in which it was set
	unable bool    // the system has no sieves

	seed    maphash.Seed
	sources *[256]share // by a hash that nobody else knows; nil: none yet
}

// flow is what comes of what all senders send.
type flow struct {
	offered float64 // packets in this round, with those that were lost or refused
	taken   float64 // and those that were neither
	excess  float64 // the part that was, smoothed
	carried float64 // work in this round that was not refused
	through float64 // the same by the round, smoothed
	best    float64 // the most of it in the last seconds
}

// share is what a sender has of a reader.
type share struct {
	round   int64
	work    float64 // in the round: bytes, and packets, with what was refused beside them
	rate    float64 // the same by the round, smoothed
	refused float64 // the part that is above the level
	sieved  float64 // the part that the system refuses
	here    float64 // the part of the rest that is refused here
	owed    float64 // of the next packet to be refused
	heavy   bool    // it is among a crowd's
}

// arrive takes note of how much the socket has lost since it was made, and says whether there is a crowd. What is sieved counts as lost too,
// and so does what has a wrong checksum, which anybody can send: so the socket, of which fill says what is taken, has to be rather full.
func (c *crowd) arrive(now instant, lost uint32, fill func() float64) bool {
	if lost != c.lost && len(c.sieved) == 0 && c.roundAt(now) > c.set+1 && fill() > ratherFull {
		if !c.crowded(now) {
			c.round, c.looked, c.level, c.fall, c.most, c.peak, c.stray = c.roundAt(now), 0, 0, leastFall, 0, 0, 0
			c.flow = flow{}
		}
		c.overflow(now)
	}
	if len(c.sieved) == 0 {
		c.flow.offered += float64(lost - c.lost)
	}
	c.lost = lost
	return c.crowded(now)
}

// overflow says that the socket had no room.
func (c *crowd) overflow(now instant) { c.over, c.until = true, now.add(crowdedFor) }

// filled takes note of which part of the socket's room is taken.
func (c *crowd) filled(part float64, now instant) {
	if c.fill = part; part > nearlyFull {
		c.overflow(now)
	}
}

// begin begins a round if it is time; false if it is not.
func (c *crowd) begin(now instant) bool {
	round := c.roundAt(now)
	if round == c.round {
		return false
	}
	c.next(round)
	return true
}

func (c *crowd) crowded(now instant) bool { return now < c.until }

func (c *crowd) roundAt(now instant) int64 { return int64(now) / int64(roundTime) }

// next begins a round: it moves the level.
func (c *crowd) next(round int64) {
	passed := min(float64(round-c.round), float64(crowdedFor/roundTime))
	c.round, c.most, c.peak = round, max(c.peak, c.most*(1-1.0/smoothing)), 0
	c.looked++
	c.flow.measure()
	if c.fill > wellFilled && c.fill >= c.filledAs { // and who has begun to catch up needs time
		c.over = true
	}
	c.filledAs, c.fill = c.fill, 0
	switch {
	case c.looked < firstLook || c.most == 0:
	case c.level > 0 && c.flow.through < c.flow.best/2 && c.flow.excess < careless:
		c.ease(recovery, passed)
		c.fall = leastFall
	case c.over && c.stray <= c.most && c.flow.excess > tolerable: // of more strays it would be nobody's work: to refuse senders would not help
		if c.level == 0 || c.level > c.most {
			c.level = c.most
		}
		c.level *= 1 - max(c.fall, (1-c.level/c.most)/4)
		c.fall = min(4*c.fall, mostFall)
	default:
		c.fall = max(c.fall/2, leastFall)
		c.ease(rise, passed)
	}
	if c.level > 0 {
		c.level = max(c.level, c.most*lowest)
	}
	c.over, c.stray = false, 0
}

// ease raises the level, and forgets it where nobody reaches it.
func (c *crowd) ease(by, rounds float64) {
	if c.level *= math.Pow(1+by, rounds); c.level > 2*c.most {
		c.level = 0
	}
}

// measure sums up the round that is over.
func (f *flow) measure() {
	if f.offered > 0 {
		f.excess += (1 - f.taken/f.offered - f.excess) / smoothing
	}
	f.through += (f.carried - f.through) / smoothing
	f.best = max(f.through, f.best*(1-forgets))
	f.offered, f.taken, f.carried = 0, 0, 0
}

// strayed takes note of a packet that is nobody's: of no session, forged or malformed.
func (c *crowd) strayed(bytes int) { c.stray += float64(bytes + packetWork) }

// refuses says whether a sender's next packet is one to refuse.
func (c *crowd) refuses(s *share) bool {
	if s.owed += s.here; s.owed < 1 {
		return false
	}
	s.owed--
	return true
}

// settle begins a sender's round.
func (c *crowd) settle(s *share) {
	s.rate += (s.work - s.rate) / smoothing
	s.rate *= math.Pow(1-1.0/smoothing, float64(c.round-s.round-1)) // rounds in which there was nothing
	s.round, s.work, s.refused = c.round, 0, 0
	if c.level > 0 && s.rate > c.level {
		s.refused = min(1-c.level/s.rate, 1-lowest)
	}
	s.here = max(0, 1-(1-s.refused)/(1-s.sieved))
	c.peak = max(c.peak, s.rate)
}

// charge takes a packet that was not refused and that authenticated: who forges a peer's index takes nothing of its share. It stands for
// those that were refused beside it.
func (c *crowd) charge(s *share, bytes int) {
	c.flow.carried += float64(bytes + packetWork)
	stands := 1 / (1 - s.here) / (1 - s.sieved)
	s.work += float64(bytes+packetWork) * stands
	c.flow.taken++
	c.flow.offered += stands
}

// share is a peer's.
func (c *crowd) share(p *peer, socket int) *share {
	s := &p.shares[socket]
	if s.round != c.round {
		if c.settle(s); s.refused > 0 && !s.heavy && len(c.heavy) < mostHeavy {
			c.heavy, s.heavy = append(c.heavy, p), true
		}
	}
	return s
}

// resieve says, every so often, what the system is to refuse from now on; false: what it does already.
func (c *crowd) resieve(socket int) (out []sieved, changed bool) {
	if len(c.heavy)+len(c.sieved) == 0 || c.round < c.set+sieveEvery || c.unable {
		return nil, false
	}
	changed = len(c.sieved) > 0
	c.unsieve(socket)
	for _, p := range c.heavy {
		s := &p.shares[socket]
		part := 1 - sieveSeen*(1-s.refused)
		if s.heavy = false; part <= 0 {
			continue
		}
		s.sieved, c.sieved = part, append(c.sieved, p)
		for _, n := range p.indices() {
			out = append(out, sieved{n, part})
		}
	}
	clear(c.heavy)
	c.heavy = c.heavy[:0]
	return out, changed || len(c.sieved) > 0
}

// unsieve takes nobody for sieved any more.
func (c *crowd) unsieve(socket int) {
	for _, p := range c.sieved {
		p.shares[socket].sieved = 0
	}
	c.set, c.sieved = c.round, nil
}

// carriesMany says whether a peer passes on packets of many: a gateway as its members see it, and who has more addresses than one of each
// family, if it is not one of those that a gateway keeps apart.
func carriesMany(p datapath.Peer) bool {
	var four, six int
	for _, a := range p.AllowedIPs {
		switch {
		case !a.IsSingleIP():
			four = 2
		case a.Addr().Is4():
			four++
		default:
			six++
		}
	}
	return p.Gateway || !p.Outside && max(four, six) > 1
}

// source is the share of an inner source address, or of whomever it stands for. A hash may put two together.
func (c *crowd) source(a netip.Addr) *share {
	if c.sources == nil {
		c.seed, c.sources = maphash.MakeSeed(), new([256]share)
	}
	s := &c.sources[maphash.Comparable(c.seed, a)%uint64(len(c.sources))]
	if s.round != c.round {
		c.settle(s)
	}
	return s
}
