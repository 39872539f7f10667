package wireguard

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/pathmtu"
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

// The numbers of the probes that FuzzTake's engine waits for answers to.
const (
	probeID    = 7
	probeToken = 11
)

var probeSizes = map[uint16]int{9: 1420, 10: pathmtu.Floor}

// echo is a probe of a peer's, or, with kind, whatever else of its form.
func echo(from, to netip.Addr, size int, number uint16, kind byte) []byte {
	b := make([]byte, size)
	writeEcho(b, from, to, probeID, number, probeToken)
	if to.Is6() {
		b[40] = kind
	} else {
		b[20] = kind
	}
	return b
}

// asks has an engine wait for the answers to two probes of a peer's path, and owe nobody an answer.
func (p *peer) asks() {
	now := p.engine.now()
	p.path.answered.paid.Store(0)
	p.engine.paths.answers.paid.Store(0)
	p.path.mu.Lock()
	defer p.path.mu.Unlock()
	p.path.id, p.path.token, p.path.search = probeID, probeToken, pathmtu.Search{}
	p.path.search.Data(time.Duration(now), 1420, 1420, 0)
	p.path.search.Next(time.Duration(now))
	for number, size := range probeSizes {
		p.path.probes[int(number)%len(p.path.probes)] = probed{number, size, now}
	}
	p.path.settle(p.engine)
	p.path.listens.Store(true)
}

// isProbe says whether a whole packet asks one of own how long the path is, looking at each byte that says so.
func isProbe(b []byte, own ...netip.Addr) bool {
	at, is := 20, len(b) >= pathmtu.Floor && b[0] == 0x45 && b[6]&^0x40 == 0 && b[7] == 0 && b[9] == protocolICMP && b[20] == 8
	if len(b) >= pathmtu.Floor && b[0]>>4 == 6 {
		at, is = 40, b[6] == protocolICMP6 && b[40] == 128
	}
	return is && bytes.HasPrefix(b[at+16:], []byte(pathmtu.Mark)) && slices.Contains(own, packetDestination(b))
}

// isAnswerTo says whether a whole packet is one of the answers that asks waits for.
func isAnswerTo(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	protocol, at := transport(b)
	if kind := map[byte]byte{protocolICMP: 0, protocolICMP6: 129}; protocol != protocolICMP && protocol != protocolICMP6 || len(b) < at+16 || b[at] != kind[protocol] {
		return false
	}
	number := binary.BigEndian.Uint16(b[at+6:])
	return binary.BigEndian.Uint16(b[at+4:]) == probeID && binary.BigEndian.Uint64(b[at+8:]) == probeToken && len(b) == probeSizes[number]
}

// rightReply wants the answer to a probe to be that probe, but for who says it to whom.
func rightReply(t *testing.T, probe []byte) {
	t.Helper()
	from := packetDestination(probe)
	_, to := packetSource(probe)
	_, at := transport(probe)
	kind := probe[at] & 0x81 // 8 becomes 0, 128 becomes 129
	if to.Is6() {
		kind |= 1
	}
	b := echoReply(probe, to, from, at, kind)
	defer b.Free()
	reply := b.Packet(0)
	n, src := packetSource(reply)
	if n != len(probe) || src != from || packetDestination(reply) != to || reply[at] != kind || !bytes.Equal(reply[at+4:], probe[at+4:]) {
		t.Fatalf("the answer to %x is %x", probe, reply)
	}
	protocol, _ := transport(reply)
	checkICMP(t, reply, protocol, at)
}

// FuzzTake gives the receiver messages of genuine datagrams, spoilt ones and arbitrary ones. Every datagram has to be accounted for,
// and what is delivered has to be what was sealed. What asks how long the path is, or answers, is not delivered, and nothing else is kept.
func FuzzTake(f *testing.F) {
	ip := packet(innerA, innerB, "payload")
	f.Add(ip, uint8(3), uint16(64), []byte{}, uint16(0), byte(0))
	f.Add([]byte{}, uint8(1), uint16(32), []byte{4, 0, 0, 0}, uint16(0), byte(0))
	f.Add(ip, uint8(9), uint16(63), bytes.Repeat([]byte{1, 0, 0, 0}, 40), uint16(20), byte(0x80))
	f.Add(packet(innerB, innerA, "foreign"), uint8(2), uint16(0), append([]byte{2, 0, 0, 0}, make([]byte, 88)...), uint16(0), byte(0))
	f.Add([]byte("A0\x00 00000000\n\t\x00\x010"), uint8(25), uint16(64), []byte("0"), uint16(0), byte('u')) // longer than it is, by padding
	f.Add([]byte{0x60, 0, 0, 0, 0xff, 0xff}, uint8(1), uint16(48), []byte{3, 0, 0, 0}, uint16(8), byte(1))
	sixA, sixB := netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")
	for _, of := range [][2]netip.Addr{{innerA, innerB}, {sixA, sixB}} {
		ask, answer := byte(8), byte(0)
		if of[0].Is6() {
			ask, answer = 128, 129
		}
		f.Add(echo(of[0], of[1], pathmtu.Floor, 5, ask), uint8(30), uint16(pathmtu.Floor+Overhead), []byte{}, uint16(0), byte(0)) // more than are answered at once
		f.Add(echo(of[0], of[1], 1420, 9, answer), uint8(2), uint16(1420+Overhead), []byte{}, uint16(0), byte(0))
		f.Add(echo(of[0], of[1], pathmtu.Floor, 10, answer), uint8(1), uint16(0), []byte{}, uint16(0), byte(0))
		f.Add(echo(of[0], of[0], pathmtu.Floor, 5, ask), uint8(1), uint16(0), []byte{}, uint16(0), byte(0)) // of somebody else
		f.Add(echo(of[0], of[1], pathmtu.Floor, 9, answer), uint8(1), uint16(0), []byte{}, uint16(0), byte(0))
	}
	f.Add(echo(sixA, sixB, 1420, 9, 129)[:1404], uint8(1), uint16(0), []byte{}, uint16(0), byte(0)) // longer than padding makes it
	f.Add(echo(innerA, innerB, 1111, 5, 8), uint8(3), uint16(0), []byte{}, uint16(0), byte(0))      // of a size that is not padded
	f.Add(ip, uint8(9), uint16(63), []byte{}, uint16(4), byte(0x80))                                // of no session
	other := echo(innerA, innerB, pathmtu.Floor, 10, 0)
	other[25]++ // to another's question
	f.Add(other, uint8(1), uint16(0), []byte{}, uint16(0), byte(0))
	fragment := echo(innerA, innerB, pathmtu.Floor, 5, 8)
	fragment[7] = 1
	f.Add(fragment, uint8(1), uint16(0), []byte{}, uint16(0), byte(0))
	var delivered [][]byte
	e := bare(func(packets [][]byte, offset int) {
		for _, p := range packets {
			delivered = append(delivered, bytes.Clone(p[offset:]))
		}
	})
	far := bare(nil)
	p := meet(f, e, far, innerA, key.Preshared{})
	if err := e.UpdatePeers([]datapath.Peer{{PublicKey: far.self, AllowedIPs: []netip.Prefix{netip.PrefixFrom(innerA, 32), netip.PrefixFrom(sixA, 128)}}}, nil); err != nil {
		f.Fatal(err)
	}
	e.SetProbes(datapath.Interface{MTU: 1420, Addresses: []netip.Prefix{netip.PrefixFrom(innerB, 32), netip.PrefixFrom(sixB, 128)}})
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
		p.tx.Store(0)
		p.asks()
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
		letters := 0
		for range len(e.letters) {
			if l := <-e.letters; messageType(l.text[:l.size]) != typeTransport { // what is of no session is counted as that, and may be a letter besides
				letters++
			}
		}
		c := &e.count
		lost := c.malformed.Load() + c.noSession.Load() + c.unauthentic.Load() + c.replayed.Load() + c.source.Load() + c.handshakesLost.Load()
		whole := append(bytes.Clone(inner), make([]byte, padded(len(inner), 1420)-len(inner))...) // the peer may call padding a part of it
		n, src := packetSource(whole)
		answers, answered := 0, 0
		if p.tx.Load() > 0 { // it sends nothing else here
			if !isProbe(whole[:n], innerB, sixB) {
				t.Fatalf("%x was answered", inner)
			}
			rightReply(t, whole[:n])
			answers = int(p.tx.Load()) / (Overhead + n)
		}
		if p.rx.Load() > 0 && (src == innerA || src == sixA) && isAnswerTo(whole[:n]) { // the first of them: then that probe has its answer
			answered = 1
		}
		keepalives := 0
		if len(inner) == 0 { // then what authenticates is one
			keepalives = int(p.rx.Load() / Overhead)
		}
		if got := int(lost) + letters + len(delivered) + keepalives + answers + answered; got != datagrams {
			t.Fatalf("%d of %d datagrams are accounted for: %d lost, %d letters, %d delivered, %d answered, %d answers", got, datagrams, lost, letters, len(delivered), answers, answered)
		}
		for _, d := range delivered {
			if !bytes.Equal(d, whole[:n]) {
				t.Fatalf("%x was never sent", d)
			}
			if src != innerA && src != sixA {
				t.Fatalf("delivered %x", d)
			}
			if isProbe(d, innerB, sixB) && answers < int(answerBurst/answerCost) {
				t.Fatalf("%x was delivered; answered %d", d, answers)
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
