package wireguard

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

const megabit = 1_000_000

func TestRate(t *testing.T) {
	for bits, want := range map[int64]rate{
		0: {}, -1: {},
		megabit:       {megabit, 524288 * time.Microsecond}, // 64 KiB
		100 * megabit: {100 * megabit, datapath.BurstTime},
	} {
		if got := newRate(bits); got != want {
			t.Errorf("%d bit/s: %+v, want %+v", bits, got, want)
		}
	}
	if got := newRate(8 * megabit).cost(1000); got != time.Millisecond {
		t.Errorf("1000 bytes at 8 Mbit/s cost %s", got)
	}
	if got := newRate(64_000).cost(MaxPackets * 68 << 10); got < 0 {
		t.Errorf("the longest batch at the least rate overflows: %s", got)
	}
}

// TestBucketAtRandom: whatever is asked for, and when, what passes is never more than the rate and one burst and packet, and never less
// than the rate while there is always something to pass.
func TestBucketAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 5)) //nolint:gosec // a test wants to be repeatable
		limit := newRate(64_000 + r.Int64N(1<<r.IntN(36)))
		var b bucket
		now, passed := at(0), time.Duration(0)
		longest := time.Duration(0)
		for now < at(20*time.Second) {
			now = now.add(time.Duration(r.Int64N(int64(limit.burst) / 4)))
			for b.room(now, limit.burst) > 0 {
				cost := limit.cost(1 + r.IntN(64<<10))
				longest = max(longest, cost)
				b.spend(now, cost)
				passed += cost
			}
		}
		took := now.sub(at(0))
		if passed < took || passed > took+limit.burst+longest {
			t.Fatalf("seed %d: in %s what takes %s passed, with bursts of %s and packets of %s", seed, took, passed, limit.burst, longest)
		}
	}
}

// limited is a pair of which b holds a, an outside peer, to limits.
func limited(t testing.TB, l datapath.Limits) handshake {
	t.Helper()
	h := newHandshake(t, key.Preshared{})
	h.connect(t)
	h.ofA.outside.Store(true)
	_ = h.b.SetLimits(l)
	return h
}

// sealed is a transport message from h.a.
func (h handshake) sealed(size int) []byte {
	inner := packet(innerA, innerB, strings.Repeat("x", size-20))
	b := NewBatch(len(inner), 1420)
	copy(b.Next(len(inner)), inner)
	h.ofB.current.Load().seal(b)
	return b.packets[0]
}

func (h handshake) take(msg []byte) {
	(&receiver{engine: h.b}).take(&message{data: msg, from: outside})
}

// TestReceiveLimit: a peer has its burst, then its rate. What is too much is not decrypted, which is seen by what would not be authentic.
func TestReceiveLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limited(t, datapath.Limits{Bandwidth: megabit})
		const size = 1392 + Overhead // 11.392 ms each
		count := &h.b.count.receiveLimit
		rx := func() uint64 { return h.ofA.rx.Load() }
		before := rx()
		for range 100 {
			h.take(h.sealed(1392))
		}
		const burst = datapath.BurstBytes/size + 1
		if got := (rx() - before) / size; got != burst || count.Load() != 100-burst {
			t.Fatalf("%d packets passed and %d did not, want %d and %d", got, count.Load(), burst, 100-burst)
		}
		forged := h.sealed(1392)
		forged[len(forged)-1] ^= 1
		h.take(forged)
		if h.b.count.unauthentic.Load() != 0 || count.Load() != 101-burst {
			t.Errorf("a packet of a peer in debt was decrypted")
		}
		before = rx()
		for range 1000 { // a second
			pass(time.Millisecond)
			h.take(h.sealed(1392))
		}
		if got := (rx() - before) / size; got < 86 || got > 88 {
			t.Errorf("%d packets passed in a second, want 87", got)
		}
		_ = h.b.SetLimits(datapath.Limits{Bandwidth: 10 * megabit})
		before = rx()
		for range 1000 {
			pass(time.Millisecond)
			h.take(h.sealed(1392))
			h.take(h.sealed(1392))
		}
		if got := (rx() - before) / size; got < 1100 || got > 1180 {
			t.Errorf("%d packets passed in a second at the new rate, want 878 and a burst of 263", got)
		}
		_ = h.b.SetLimits(datapath.Limits{Bandwidth: 10 * megabit})
		before = rx()
		for range 100 {
			h.take(h.sealed(1392))
		}
		if got := (rx() - before) / size; got > 10 {
			t.Errorf("the same limits again forgave a debt: %d packets passed", got)
		}
		_ = h.b.SetLimits(datapath.Limits{})
		before = rx()
		for range 500 {
			h.take(h.sealed(1392))
		}
		if got := (rx() - before) / size; got != 500 {
			t.Errorf("%d of 500 packets passed without a limit", got)
		}
		h.ofA.remove()
		h.ofB.remove()
	})
}

// TestForgedPacketsSpendNothing: whoever knows a peer's index, or repeats what it said, takes nothing from it.
func TestForgedPacketsSpendNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limited(t, datapath.Limits{Bandwidth: megabit})
		genuine := h.sealed(1392)
		again := append([]byte{}, genuine...)
		h.take(genuine)
		forged := h.sealed(1392)
		binary.LittleEndian.PutUint64(forged[transCounter:], 1<<20)
		for range 500 {
			h.take(append([]byte{}, forged...))
			h.take(append([]byte{}, again...))
		}
		if c := &h.b.count; c.unauthentic.Load() != 500 || c.replayed.Load() != 500 {
			t.Fatalf("%v", h.b.Drops())
		}
		for range 40 {
			h.take(h.sealed(1392))
		}
		if n := h.b.count.receiveLimit.Load(); n != 0 {
			t.Errorf("%d of 40 genuine packets found nothing left", n)
		}
		h.ofA.remove()
		h.ofB.remove()
	})
}

// TestSendLimit drops the end of what is sent to a peer in debt, but no keepalive.
func TestSendLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limited(t, datapath.Limits{Bandwidth: megabit})
		send := func(count int) {
			b := h.b.NewBatch(count * 1420)
			for range count {
				copy(b.Next(1392), packet(innerB, innerA, strings.Repeat("x", 1372)))
			}
			h.b.Send(innerA, b)
		}
		before := h.ofA.tx.Load()
		const size, burst = 1392 + Overhead, datapath.BurstBytes/(1392+Overhead) + 1
		for range 2 {
			send(40)
		}
		if got, dropped := (h.ofA.tx.Load()-before)/size, h.b.count.sendLimit.Load(); got != burst || dropped != 80-burst {
			t.Errorf("%d packets were sent and %d dropped, want %d and %d", got, dropped, burst, 80-burst)
		}
		before = h.ofA.tx.Load()
		h.ofA.sendKeepalive()
		if got := h.ofA.tx.Load() - before; got != Overhead {
			t.Errorf("%d bytes were sent, want a keepalive", got)
		}
		h.ofA.outside.Store(false)
		before = h.ofA.tx.Load()
		send(40)
		if got := (h.ofA.tx.Load() - before) / size; got != 40 {
			t.Errorf("of 40 packets %d were sent to a member", got)
		}
		h.ofA.remove()
		h.ofB.remove()
	})
}

// TestHandshakeLimit: a peer begins as many handshakes at once as it may in a minute, and then one whenever one is due.
func TestHandshakeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limited(t, datapath.Limits{Handshakes: 10})
		try := func() error { return h.b.handle(letterOf(h.initiation(), outside)) }
		for i := range 10 {
			if err := try(); err != nil {
				t.Fatalf("handshake %d: %v", i, err)
			}
		}
		for range 3 {
			err := try()
			if !errors.Is(err, errOverLimit) {
				t.Fatalf("the eleventh handshake: %v", err)
			}
			h.b.refused(err)
		}
		if d := h.b.Drops(); d["HandshakeLimit"] != 3 || d["HandshakeRefused"] != 0 {
			t.Errorf("%v", d)
		}
		pass(6 * time.Second)
		msg := h.initiation()
		if err := h.b.handle(letterOf(msg, outside)); err != nil {
			t.Fatalf("a handshake that was due: %v", err)
		}
		pass(6 * time.Second)
		for range 20 { // a third party repeats it
			if err := h.b.handle(letterOf(msg, elsewhere)); !errors.Is(err, errReplayed) {
				t.Fatalf("a repeated initiation: %v", err)
			}
		}
		if err := try(); err != nil {
			t.Errorf("what a third party repeated was counted: %v", err)
		}
		if err := try(); !errors.Is(err, errOverLimit) {
			t.Errorf("one too many: %v", err)
		}
		_ = h.b.SetLimits(datapath.Limits{Bandwidth: megabit})
		if err := try(); err != nil {
			t.Errorf("without a limit: %v", err)
		}
		h.ofA.remove()
		h.ofB.remove()
	})
}

// TestHandshakeFlood: under load one sender has no more than its share looked at, whatever it sends, and others have theirs.
func TestHandshakeFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := bare(nil)
		for apart := false; !apart; { // a hash may put two of them together
			e = bare(nil)
			seen := map[*bucket]bool{}
			for _, from := range []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.1:2", "[2001:db8::1]:1"} {
				seen[e.senders.bucket(netip.MustParseAddrPort(from))] = true
			}
			apart = len(seen) == 4
		}
		msg := make([]byte, initiationSize)
		post := func(n int, from string) (taken int) {
			before := len(e.letters)
			for range n {
				e.post(msg, &endpoint{to: netip.MustParseAddrPort(from)})
			}
			return len(e.letters) - before
		}
		const most = int(senderBurst / senderCost)
		if got := post(10_000, "192.0.2.1:1"); got != cap(e.letters)/8+most {
			t.Errorf("of a flood %d messages wait, want those before there is load, %d, and %d", got, cap(e.letters)/8, most)
		}
		if got := post(10, "192.0.2.2:1"); got != 10 {
			t.Errorf("of another's 10 messages %d wait", got)
		}
		if got := post(10, "192.0.2.1:2"); got != 10 {
			t.Errorf("of 10 from another port of the address %d wait", got)
		}
		if got := post(200, "[2001:db8::1]:1") + post(200, "[2001:db8::2]:1"); got != most {
			t.Errorf("of two addresses of one host %d messages wait, want %d", got, most)
		}
		pass(100 * time.Millisecond)
		if got := post(100, "192.0.2.1:1"); got != 10 {
			t.Errorf("a tenth of a second later %d messages wait, want 10", got)
		}
		for len(e.letters) > 0 {
			<-e.letters
		}
		pass(2 * time.Second)
		if got := post(100, "192.0.2.1:1"); got != 100 {
			t.Errorf("without load %d of 100 messages wait", got)
		}
		for len(e.letters) < cap(e.letters) {
			e.letters <- nil
		}
		if got := post(10, "192.0.2.3:1"); got != 0 {
			t.Errorf("%d messages more than there is room for", got)
		}
	})
}
