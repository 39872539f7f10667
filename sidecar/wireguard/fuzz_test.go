package wireguard

import (
	"bytes"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// bare is an engine without sockets and goroutines: what it sends is lost, and handshake messages wait in letters.
func bare(deliver func([][]byte, int)) *Engine {
	priv := key.NewPrivate()
	return &Engine{
		self: priv.Public(), static: priv.ECDH(), log: slog.New(slog.DiscardHandler), mtu: func() int { return 1420 },
		deliver: deliver, began: time.Now(), checker: checker{keys: newMACKeys(priv.Public())},
		index: index{entries: make(map[uint32]entry)}, letters: make(chan *letter, 1024),
		peers: make(map[key.Public]*peer), registry: make(delta.Registry),
	}
}

// meet makes b a peer of a, by one inner address, and returns it.
func meet(t testing.TB, a, b *Engine, inner netip.Addr, psk key.Preshared) *peer {
	t.Helper()
	if err := a.UpdatePeers([]datapath.Peer{{
		PublicKey: b.self, PresharedKey: psk, AllowedIPs: []netip.Prefix{netip.PrefixFrom(inner, inner.BitLen())},
		Endpoint: netip.MustParseAddrPort("192.0.2.1:51820"),
	}}, nil); err != nil {
		t.Fatal(err)
	}
	return a.peer(b.self)
}

var (
	innerA  = netip.MustParseAddr("10.9.0.1")
	innerB  = netip.MustParseAddr("10.9.0.2")
	outside = &endpoint{to: netip.MustParseAddrPort("198.51.100.7:4711")}

	elsewhere = &endpoint{to: netip.MustParseAddrPort("203.0.113.9:4712")}
)

// handshake is a whole one that a begins, message by message; edit may change each before it is looked at.
type handshake struct {
	a, b     *Engine
	ofA, ofB *peer // a's peer at b, b's peer at a
}

func newHandshake(t testing.TB, psk key.Preshared) handshake {
	a, b := bare(func([][]byte, int) {}), bare(func([][]byte, int) {})
	return handshake{a, b, meet(t, b, a, innerA, psk), meet(t, a, b, innerB, psk)}
}

// still stops the clock of both: nothing happens but what the test does.
func (h handshake) still() handshake {
	h.ofA.still()
	h.ofB.still()
	return h
}

func (p *peer) still() { p.timer = time.AfterFunc(time.Hour, func() {}) }

// initiation makes one that its peer has not seen the like of.
func (h handshake) initiation() []byte {
	h.ofA.mu.Lock()
	h.ofA.heard, h.ofA.heardAt = timestamp{}, 0
	h.ofA.mu.Unlock()
	h.ofB.mu.Lock()
	defer h.ofB.mu.Unlock()
	h.ofB.stopAsking()
	h.ofB.lastAsked = 0
	return h.ofB.begin(h.a.now())
}

// response makes the answer to an initiation, as handleInitiation would.
func (h handshake) response(t testing.TB, msg []byte) []byte {
	n := startNoise(h.b.self)
	n.mixEphemeral(msg[initEphemeral:initStatic])
	secret, _ := shared(h.b.static, msg[initEphemeral:initStatic])
	if _, err := n.open(n.mixKeyFor(secret), msg[initStatic:initTimestamp]); err != nil {
		t.Fatal(err)
	}
	out, err := h.ofA.answer(n, msg, h.b.now(), outside)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func letterOf(msg []byte, from *endpoint) *letter {
	l := &letter{size: len(msg), from: from}
	copy(l.text[:], msg)
	return l
}

// FuzzTake gives the receiver messages of genuine datagrams, spoilt ones and arbitrary ones. Every datagram has to be accounted for,
// and what is delivered has to be what was sealed.
func FuzzTake(f *testing.F) {
	ip := packet(innerA, innerB, "payload")
	f.Add(ip, uint8(3), uint16(64), []byte{}, uint16(0), byte(0))
	f.Add([]byte{}, uint8(1), uint16(32), []byte{4, 0, 0, 0}, uint16(0), byte(0))
	f.Add(ip, uint8(9), uint16(63), bytes.Repeat([]byte{1, 0, 0, 0}, 40), uint16(20), byte(0x80))
	f.Add(packet(innerB, innerA, "foreign"), uint8(2), uint16(0), append([]byte{2, 0, 0, 0}, make([]byte, 88)...), uint16(0), byte(0))
	f.Add([]byte("A0\x00 00000000\n\t\x00\x010"), uint8(25), uint16(64), []byte("0"), uint16(0), byte('u')) // longer than it is, by padding
	f.Add([]byte{0x60, 0, 0, 0, 0xff, 0xff}, uint8(1), uint16(48), []byte{3, 0, 0, 0}, uint16(8), byte(1))
	var delivered [][]byte
	e := bare(func(packets [][]byte, offset int) {
		for _, p := range packets {
			delivered = append(delivered, bytes.Clone(p[offset:]))
		}
	})
	other := bare(nil)
	p := meet(f, e, other, innerA, key.Preshared{})
	p.still()
	k := hash32{1, 2, 3}
	r := receiver{engine: e}
	f.Fuzz(func(t *testing.T, inner []byte, count uint8, each uint16, raw []byte, at uint16, flip byte) {
		if len(inner) > 2000 || len(raw) > 1<<15 {
			return
		}
		e.count, delivered = counters{}, nil
		p.forgetSessions()
		p.rx.Store(0)
		s := &session{peer: p, created: e.now(), sends: transportCipher(k), receives: transportCipher(k)}
		s.local = e.index.add(entry{peer: p, session: s})
		s.remote = s.local
		p.current.Store(s)
		var data []byte
		for range count % MaxPackets {
			b := NewBatch(len(inner), 1420)
			copy(b.Next(len(inner)), inner)
			if !s.seal(b) {
				t.Fatal("not sealed")
			}
			data = append(data, b.packets[0]...)
			b.Free()
		}
		if len(data) > 0 {
			data[int(at)%len(data)] ^= flip
		}
		data = append(data, raw...)
		datagrams := 1
		if each > 0 && len(data) > 0 {
			datagrams = (len(data) + int(each) - 1) / int(each)
		}
		home := p.at.Load()
		r.take(&message{data: data, each: int(each), from: elsewhere})
		if moved := p.at.Load() != home; moved != (p.rx.Load() > 0) {
			t.Fatalf("%d bytes authenticated; the peer moved: %t", p.rx.Load(), moved)
		}
		p.at.Store(outside)
		letters := len(e.letters)
		for range letters {
			<-e.letters
		}
		c := &e.count
		lost := c.malformed.Load() + c.noSession.Load() + c.unauthentic.Load() + c.replayed.Load() + c.source.Load() + c.handshakesLost.Load()
		keepalives := 0
		if len(inner) == 0 { // then what authenticates is one
			keepalives = int(p.rx.Load() / Overhead)
		}
		if got := int(lost) + letters + len(delivered) + keepalives; got != datagrams {
			t.Fatalf("%d of %d datagrams are accounted for: %d lost, %d letters, %d delivered", got, datagrams, lost, letters, len(delivered))
		}
		for _, d := range delivered {
			if !bytes.HasPrefix(append(bytes.Clone(inner), make([]byte, padTo)...), d) { // the peer may call padding a part of it
				t.Fatalf("%x was never sent", d)
			}
			if n, src := packetSource(d); n != len(d) || src != innerA {
				t.Fatalf("delivered %x", d)
			}
		}
	})
}

// FuzzHandshake changes the messages of a handshake. Only what is as it was, but for indices, which nothing vouches for, may be
// taken; nothing else may change a session, an index, or where the peer is.
func FuzzHandshake(f *testing.F) {
	for kind := range uint8(3) {
		f.Add(kind, []byte{}, true, false)
		f.Add(kind, []byte{4, 1}, true, false)    // the index
		f.Add(kind, []byte{8, 0x80}, true, true)  // what follows it
		f.Add(kind, []byte{147, 1}, false, true)  // the second MAC
		f.Add(kind, []byte{60, 1}, false, false)  // without a new first MAC
		f.Add(kind, []byte{0, 3}, true, false)    // the type
		f.Add(kind, []byte{91, 255}, true, false) // a response's second MAC
	}
	h := newHandshake(f, key.NewPreshared()).still()
	f.Fuzz(func(t *testing.T, kind uint8, edits []byte, resign, loaded bool) {
		if len(edits) > 64 {
			return
		}
		for _, p := range []*peer{h.ofA, h.ofB} {
			p.mu.Lock()
			p.forgetSessions()
			p.stopAsking()
			p.signer.cookie, p.signer.given = mac16{}, time.Time{}
			p.mu.Unlock()
		}
		initiation := h.initiation()
		var whole []byte
		to, p := h.a, h.ofB // whom the message is for
		switch kind % 3 {
		case 0:
			whole, to, p = initiation, h.b, h.ofA
		case 1:
			whole = h.response(t, initiation)
		case 2:
			whole = h.b.checker.reply(initiation, outside.to, time.Now())
		}
		msg := bytes.Clone(whole)
		for i := 0; i+1 < len(edits); i += 2 {
			msg[int(edits[i])%len(msg)] ^= edits[i+1]
		}
		if resign && kind%3 != 2 {
			body, first, _ := macs(msg)
			m := keyedMAC(to.checker.keys.first[:], body)
			copy(first, m[:])
		}
		to.loaded.Store(0)
		if loaded {
			to.loaded.Store(int64(to.now().add(time.Hour)))
		}
		type state struct {
			current, prev, next *session
			at                  *endpoint
			indices             int
			cookie              mac16
		}
		look := func() state {
			return state{p.current.Load(), p.prev.Load(), p.next.Load(), p.at.Load(), len(to.index.entries), p.signer.cookie}
		}
		before := look()
		size := handshakeSize(messageType(msg))
		if size != len(msg) {
			return // the receiver's to refuse
		}
		err := to.handle(letterOf(msg, outside))
		taken := look() != before
		var same bool // as far as anything vouches for it
		switch body := len(msg) - 2*macSize; {
		case kind%3 == 2:
			same = bytes.Equal(msg, whole)
		case resign:
			same = bytes.Equal(msg[atIndex+4:body], whole[atIndex+4:body])
		default:
			same = bytes.Equal(msg[:body+macSize], whole[:body+macSize])
		}
		want := same && (!loaded || kind%3 == 2)
		if taken != want {
			t.Fatalf("taken: %t, want %t (%v)", taken, want, err)
		}
		if (err == nil) != want && !loaded {
			t.Fatalf("error %v, want none: %t", err, want)
		}
		if got, most := len(h.a.index.entries)+len(h.b.index.entries), 2; got > most {
			t.Fatalf("%d indices after one handshake", got)
		}
	})
}

// FuzzDecide: no deadline in the past, no duty that excludes another beside it, and none that the clock was not set for.
func FuzzDecide(f *testing.F) {
	f.Add(int64(1), int64(1), 1, int64(0), int64(0), int64(0), int64(0), int64(0), int64(0), int64(0), false, int64(time.Second))
	f.Add(int64(89e9), int64(1), 20, int64(0), int64(5e9), int64(0), int64(0), int64(1), int64(25e9), int64(1e8), true, int64(91e9))
	f.Add(int64(0), int64(0), 0, int64(6e9), int64(1), int64(7e9), int64(8e9), int64(9e9), int64(1e9), int64(3e8), true, int64(16e9))
	f.Fuzz(func(t *testing.T, asked, since int64, attempts int, held, unanswered, owed, traffic, derived, keepalive, jitter int64, connected bool, at int64) {
		h := history{asked: instant(asked), since: instant(since), attempts: attempts, held: instant(held), connected: connected,
			unanswered: instant(unanswered), owed: instant(owed), traffic: instant(traffic), derived: instant(derived),
			keepalive: time.Duration(keepalive), jitter: time.Duration(jitter)}
		now := instant(at)
		const most = int64(100 * 365 * 24 * time.Hour)
		for _, v := range []int64{asked, since, held, unanswered, owed, traffic, derived, keepalive, jitter} {
			if v < 0 || v > most {
				return
			}
		}
		if at <= 0 || at > most || attempts < 0 || jitter > int64(retryAfter) {
			return
		}
		do, next := h.decide(now)
		if next != 0 && next <= now {
			t.Fatalf("at %d the next time is %d", now, next)
		}
		for _, pair := range []duty{ask | begin, ask | giveUp, begin | giveUp} {
			if do&pair == pair {
				t.Fatalf("duties %b together", do)
			}
		}
		if w := h.retry(); w < firstRetry || w > retryAfter+min(h.jitter, retryAfter/3) {
			t.Fatalf("a retry after %s", w)
		}
		if h.asked == 0 && do&(ask|giveUp) != 0 || h.derived == 0 && do&forget != 0 {
			t.Fatalf("duties %b of what never was", do)
		}
		if next != 0 {
			if early, again := h.decide(next - 1); early&^(giveUp|do) != 0 || again != next && early&giveUp == 0 {
				t.Fatalf("just before %d: %b, then %d; before %b", next, early, again, do)
			}
			if due, _ := h.decide(next); due&^do == 0 && due&giveUp == 0 && h.asked == 0 && h.unanswered == 0 && h.held == 0 &&
				do&reassure == 0 {
				t.Fatalf("nothing new is due at %d: %b, before %b", next, due, do)
			}
		} else if later, _ := h.decide(now + instant(1000*time.Hour)); later&^(do|giveUp) != 0 {
			t.Fatalf("%b is due later, but the clock is not set", later)
		}
	})
}

// FuzzRoutes holds the routes against a list that is searched from end to end.
func FuzzRoutes(f *testing.F) {
	f.Add([]byte{0, 24, 1, 10, 1, 32, 2, 10, 128, 24, 1, 10})
	f.Add([]byte{64, 0, 1, 0, 64, 128, 2, 255, 192, 0, 1, 0, 0, 0, 3, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 1<<10 {
			return
		}
		peers := [4]*peer{{}, {}, {}, {}}
		var r routes
		naive := make(map[netip.Prefix]*peer)
		probes := []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified(), netip.MustParseAddr("::ffff:10.0.0.0")}
		for ; len(ops) >= 4; ops = ops[4:] {
			// Few addresses, so that prefixes nest and return.
			a := netip.AddrFrom4([4]byte{ops[3], ops[3] & 0x81, 0, ops[3] & 3})
			if ops[0]&64 != 0 {
				a = netip.AddrFrom16([16]byte{0: ops[3], 1: ops[3] & 0x81, 15: ops[3] & 3})
			}
			ip, p := netip.PrefixFrom(a, int(ops[1])%(a.BitLen()+1)).Masked(), peers[ops[2]&3]
			if ops[0]&128 == 0 {
				r.set(ip, p)
				naive[ip] = p
			} else {
				r.unset(ip, p)
				if naive[ip] == p {
					delete(naive, ip)
				}
			}
			probes = append(probes, a, a.Next())
		}
		for _, a := range probes {
			var want *peer
			best := -1
			for ip, p := range naive {
				if ip.Contains(a) && ip.Bits() > best {
					best, want = ip.Bits(), p
				}
			}
			if got := r.lookup(a); got != want {
				t.Fatalf("%s leads to the wrong peer", a)
			}
		}
		if n := len(r.v4.owner) + len(r.v6.owner); n != len(naive) {
			t.Fatalf("%d routes, want %d", n, len(naive))
		}
	})
}
