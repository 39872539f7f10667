package wireguard

import (
	"bytes"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// rush is a reader with a socket, and senders that send at rates of their own: a model with a clock that is not the machine's.
type rush struct {
	t       *testing.T
	c       crowd
	now     instant
	rates   []float64 // packets of each sender in a millisecond
	peers   []*peer
	sieve   bool    // the system can
	process float64 // packets that are decrypted in a millisecond
	refuse  float64 // and that are refused meanwhile instead
	idle    float64 // part of the milliseconds in which the reader does not run
	strays  int     // packets in a millisecond that are no sender's

	random      *rand.Rand
	queue       []int
	lost        uint32
	due         []float64
	sent, taken []int
	refused     int
}

// nobody is the sender of a stray packet.
const nobody = -1

const rushQueue = 1000 // packets

func newRush(t *testing.T, rates ...float64) *rush {
	r := &rush{t: t, now: 1, rates: rates, process: 100, refuse: 2000, due: make([]float64, len(rates)), random: rand.New(rand.NewPCG(1, 2))} //nolint:gosec // a test wants to be repeatable
	for i := range rates {
		p := &peer{}
		p.current.Store(&session{local: uint32(i)})
		r.peers = append(r.peers, p)
	}
	r.clear()
	return r
}

func (r *rush) clear() { r.sent, r.taken = make([]int, len(r.rates)), make([]int, len(r.rates)) }

// arrivals has every sender send for a millisecond, in turns.
func (r *rush) arrivals() {
	for i := range r.rates {
		r.due[i] += r.rates[i]
	}
	for left := true; left; {
		left = false
		for i := range r.rates {
			if r.due[i] < 1 {
				continue
			}
			left = true
			r.due[i]--
			r.sent[i]++
			switch {
			case r.random.Float64() < r.peers[i].shares[0].sieved:
				r.lost++
			case len(r.queue) >= rushQueue:
				r.lost++
			default:
				r.queue = append(r.queue, i)
			}
		}
	}
	for range r.strays {
		if len(r.queue) >= rushQueue {
			r.lost++
			continue
		}
		r.queue = append(r.queue, nobody)
	}
}

// run lets time pass.
func (r *rush) run(d time.Duration) {
	for end := r.now.add(d); r.now < end; r.now = r.now.add(time.Millisecond) {
		r.arrivals()
		if r.random.Float64() < r.idle {
			continue
		}
		for spent := 0.0; spent < 1 && len(r.queue) > 0; {
			crowded := r.c.arrive(r.now, r.lost, func() float64 { return float64(len(r.queue)) / rushQueue })
			if crowded {
				r.c.filled(float64(len(r.queue))/rushQueue, r.now)
			}
			if crowded && r.c.begin(r.now) && r.sieve {
				r.c.resieve(0)
			}
			i := r.queue[0]
			r.queue = r.queue[1:]
			if i == nobody {
				r.c.strayed(1400)
				spent += 1 / r.process
				continue
			}
			if !crowded {
				r.taken[i]++
				spent += 1 / r.process
				continue
			}
			s := r.c.share(r.peers[i], 0)
			if r.c.refuses(s) {
				r.refused++
				spent += 1 / r.refuse
				continue
			}
			r.c.charge(s, 1400)
			r.taken[i]++
			spent += 1 / r.process
		}
	}
}

func (r *rush) part(i int) float64 { return float64(r.taken[i]) / float64(r.sent[i]) }

// Where a flood of packets that are nobody's fills the socket, no sender is refused for it: that would make room for more of the flood.
func TestCrowdOfStrays(t *testing.T) {
	r := newRush(t, 20, 20)
	r.strays = 500
	r.run(3 * time.Second)
	if r.lost == 0 {
		t.Fatal("the socket did not overflow: the test shows nothing")
	}
	if taken := r.taken[0] + r.taken[1]; r.refused > taken/100 {
		t.Errorf("%d packets of senders were refused, %d taken", r.refused, taken)
	}
	if r.c.level > 0 {
		t.Errorf("senders are held to %f", r.c.level)
	}
}

// TestCrowdSpares: whatever floods, who sends less than an equal share loses next to nothing, equal floods get the same, and the reader
// still works for them.
func TestCrowdSpares(t *testing.T) {
	for name, c := range map[string]struct {
		rates []float64
		light int     // of them, the first that are below an equal share
		busy  float64 // part of what the reader can do that it does at least
		idle  float64
	}{
		"one floods":           {[]float64{10, 800}, 1, 0.5, 0},
		"three flood":          {[]float64{10, 5, 400, 600, 300}, 2, 0.5, 0},
		"one is a little over": {[]float64{10, 110}, 1, 0.6, 0},
		"a crowd of the light": {[]float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 500}, 10, 0.5, 0},
		"a busy machine":       {[]float64{5, 600}, 1, 0.3, 0.3},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRush(t, c.rates...)
			r.sieve, r.idle = true, c.idle
			r.run(time.Second)
			r.clear()
			r.run(6 * time.Second)
			work := 0
			for i := range r.rates {
				work += r.taken[i]
				t.Logf("%g: %d of %d", r.rates[i], r.taken[i], r.sent[i])
				if i < c.light && r.part(i) < 0.97 {
					t.Errorf("who sends %g has %.3f of it read", r.rates[i], r.part(i))
				}
				if j := c.light; i > j && math.Abs(float64(r.taken[i])/float64(r.taken[j])-1) > 0.2 {
					t.Errorf("of two that flood one has %d packets read and the other %d", r.taken[i], r.taken[j])
				}
			}
			if most := r.process * 6000; float64(work) < c.busy*most {
				t.Errorf("the reader did %d of %.0f", work, most)
			}
		})
	}
}

// TestCrowdIsOver: nobody is refused anything before there was an overflow, nor once the flood has ended, and everything is forgotten then.
func TestCrowdIsOver(t *testing.T) {
	r := newRush(t, 10, 80)
	r.sieve = true
	r.run(5 * time.Second)
	if r.taken[0] != r.sent[0] || r.lost != 0 || r.c.crowded(r.now) {
		t.Fatalf("without an overflow: %d of %d, %d lost", r.taken[0], r.sent[0], r.lost)
	}
	r.rates[1] = 900
	r.run(3 * time.Second)
	if !r.c.crowded(r.now) || r.c.level == 0 || r.peers[1].shares[0].refused == 0 {
		t.Fatalf("a flood is not refused: %+v", &r.c)
	}
	r.rates[1] = 80
	r.run(2 * time.Second)
	r.clear()
	r.run(9 * time.Second)
	if r.part(1) < 0.999 || r.part(0) < 0.999 {
		t.Errorf("two seconds after the flood: %.3f, %.3f", r.part(0), r.part(1))
	}
	r.run(3 * time.Second)
	if r.c.crowded(r.now) || len(r.c.sieved) != 0 || r.peers[1].shares[0].sieved != 0 {
		t.Errorf("the crowd stays: %+v", &r.c)
	}
}

// TestCrowdIsGentle: after a single overflow, as a TCP makes when it looks for its rate, next to nothing is refused.
func TestCrowdIsGentle(t *testing.T) {
	r := newRush(t, 90)
	for range 20 {
		r.lost++
		r.run(time.Second)
	}
	if part := r.part(0); part < 0.999 {
		t.Errorf("%.4f of what was sent was read", part)
	}
}

// TestCrowdAtRandom: whatever comes and whatever the socket says, parts are parts, and no sender is refused everything.
func TestCrowdAtRandom(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a test wants to be repeatable
		var c crowd
		now, lost := instant(1), uint32(random.Uint64())
		peers := make([]*peer, 1+random.IntN(100))
		for i := range peers {
			peers[i] = &peer{}
			peers[i].current.Store(&session{local: uint32(i)})
		}
		for range 3000 {
			now = now.add(time.Duration(random.Int64N(1 << random.IntN(32))))
			if random.IntN(3) == 0 {
				lost += uint32(random.Uint64() >> random.IntN(64))
			}
			c.arrive(now, lost, random.Float64)
			c.filled(random.Float64(), now)
			if c.begin(now) {
				out, _ := c.resieve(0)
				for _, s := range out {
					if !(s.part > 0 && s.part < 1) {
						t.Fatalf("seed %d: the system is to refuse %v", seed, s.part)
					}
				}
			}
			s := c.share(peers[random.IntN(len(peers))], 0)
			if random.IntN(2) == 0 {
				s = c.source(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.Uint32())}))
			}
			if !c.refuses(s) {
				c.charge(s, random.IntN(65536))
			}
			if !(s.refused >= 0 && s.refused <= 1-lowest && s.here >= 0 && s.here <= s.refused && s.rate >= 0 && !math.IsInf(s.rate, 0) && c.level >= 0) {
				t.Fatalf("seed %d: %+v, level %g", seed, *s, c.level)
			}
		}
	}
}

// Senders that slow down when something of theirs is lost, and send more again when nothing is, use most of what can be read: refusals must
// not come faster than they can hear of them.
func TestCrowdOfTheHonest(t *testing.T) {
	rates := make([]float64, 10)
	for i := range rates {
		rates[i] = 20
	}
	r := newRush(t, rates...)
	r.idle = 0.3
	const span, spans, begin = 20 * time.Millisecond, 400, 100
	whole := 0
	for n := range spans {
		r.clear()
		before := len(r.queue)
		r.run(span)
		for i := range rates {
			if lost := r.sent[i] - r.taken[i] - (len(r.queue)-before)/len(rates); lost > 2 {
				r.rates[i] *= 0.7
			} else {
				r.rates[i] += 0.3
			}
			if n >= begin {
				whole += r.taken[i]
			}
		}
	}
	could := r.process * (1 - r.idle) * float64((spans-begin)*int(span/time.Millisecond))
	if float64(whole) < 0.85*could {
		t.Errorf("%d packets were read, of %.0f that could be", whole, could)
	}
}

// full is a socket without room.
func full() float64 { return 1 }

// TestOverShare: a peer above the level is refused before decryption, and what is forged counts for nobody.
func TestOverShare(t *testing.T) {
	h := limited(t, datapath.Limits{})
	defer h.ofA.remove()
	defer h.ofB.remove()
	r, lost := &receiver{engine: h.b}, uint32(0)
	round := func(messages ...[]byte) {
		h.b.began = h.b.began.Add(-roundTime) // so long ago did it begin
		now := h.b.now()
		lost += 8
		r.crowd.arrive(now, lost, full)
		r.crowd.begin(now)
		for _, m := range messages {
			r.take(&message{data: m, from: outside})
		}
	}
	forged := h.sealed(1392)
	forged[len(forged)-1] ^= 1
	for range 20 {
		round(bytes.Clone(forged), bytes.Clone(forged))
	}
	if s := h.ofA.shares[0]; s.rate != 0 || s.work != 0 || h.b.count.overShare.Load() != 0 {
		t.Fatalf("forged packets count: %+v", s)
	}
	const rounds = 200
	for range rounds {
		round(h.sealed(1392), h.sealed(1392), h.sealed(1392), h.sealed(1392))
	}
	if n := h.b.count.overShare.Load(); n < rounds || n > 4*rounds*(1-lowest)+4 {
		t.Errorf("of %d packets %d were refused, while the socket always overflowed", 4*rounds, n)
	}
	before := h.b.count.unauthentic.Load()
	for range 8 {
		round(bytes.Clone(forged))
	}
	if n := h.b.count.unauthentic.Load() - before; n == 8 {
		t.Error("whoever is refused has everything decrypted")
	}
}

// TestSourcesShare: of what one peer passes on for many, each source has its share, and one that stands for others has theirs.
func TestSourcesShare(t *testing.T) {
	var c crowd
	quiet, loud := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	for c.source(quiet) == c.source(loud) { // a hash may put two together
		c = crowd{}
	}
	now, refused := instant(1), map[netip.Addr]int{}
	for i := range uint32(300) {
		now = now.add(roundTime)
		c.arrive(now, 100*i, full)
		c.begin(now)
		for a, n := range map[netip.Addr]int{quiet: 1, loud: 100} {
			for range n {
				s := c.source(a)
				if c.refuses(s) {
					refused[a]++
				} else {
					c.charge(s, 1400)
				}
			}
		}
	}
	if refused[quiet] > 0 || refused[loud] < 100*300/2 {
		t.Errorf("refused: %v", refused)
	}
}

func TestCarriesMany(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "10.9.0.1/32": false, "10.9.0.1/32 fd00::1/128": false, "10.9.0.1/32 10.9.0.2/32": true, "10.9.0.0/24": true, "fd00::/64": true,
	} {
		var p datapath.Peer
		for _, a := range strings.Fields(text) {
			p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(a))
		}
		if got := carriesMany(p); got != want {
			t.Errorf("%q: %v", text, got)
		}
		if p.Outside = true; carriesMany(p) {
			t.Errorf("%q, outside: it is one", text)
		}
		if p.Gateway = true; !carriesMany(p) {
			t.Errorf("%q, a gateway: it is none", text)
		}
	}
}
