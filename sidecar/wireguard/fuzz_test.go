package wireguard

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var somewhere = &endpoint{to: netip.MustParseAddrPort("192.0.2.1:1")}

// exchange makes two engines with a session and returns every message that the first sent.
func exchange(f *testing.F) (a, b *node, sent [][]byte) {
	f.Helper()
	a, b = open(f, 1), open(f, 2)
	w := newTap(f, a, b)
	a.sendTo(b.addr, "hello", "world")
	b.expect(f, "hello")
	b.expect(f, "world")
	for len(w.frames) > 0 {
		sent = append(sent, <-w.frames)
	}
	return a, b, sent
}

// FuzzTake feeds messages, joined from datagrams of any size, to an engine that has a session. None may panic, move the peer, or be
// delivered: an authentic packet cannot be made up.
func FuzzTake(f *testing.F) {
	a, b, sent := exchange(f)
	for _, m := range sent {
		f.Add(m, 0)
		f.Add(append(m[:len(m):len(m)], m...), len(m))
	}
	f.Add([]byte{}, 0)
	f.Add([]byte{4, 0, 0, 0}, 1)
	home := b.peer(a.self).at.Load()
	f.Fuzz(func(t *testing.T, data []byte, each int) {
		if each < 0 || each > 65535 {
			return
		}
		r := receiver{engine: b.Engine}
		r.take(&message{data: append([]byte(nil), data...), each: each, from: somewhere})
		if len(b.got) > 0 {
			t.Fatalf("delivered %x", <-b.got)
		}
		if at := b.peer(a.self).at.Load(); at != home {
			t.Fatalf("the peer moved to %s", at.to)
		}
	})
}

// FuzzHandshake gives handshake messages with any body, but the right first MAC, to the worker: it is what anyone can send who
// knows our public key.
func FuzzHandshake(f *testing.F) {
	a, b, sent := exchange(f)
	for _, m := range sent {
		f.Add(m)
	}
	home := b.peer(a.self).at.Load()
	session := b.peer(a.self).current.Load()
	f.Fuzz(func(t *testing.T, data []byte) {
		size := handshakeSize(messageType(data))
		if size == 0 || len(data) < size {
			return
		}
		l := &letter{size: size, from: somewhere}
		copy(l.text[:], data[:size])
		if messageType(data) != typeCookie {
			body, first, _ := macs(l.bytes())
			m := keyedMAC(b.checker.keys.first[:], body)
			copy(first, m[:])
		}
		if err := b.handle(l); err == nil {
			t.Fatalf("taken: %x", l.bytes())
		}
		if p := b.peer(a.self); p.at.Load() != home || p.current.Load() != session {
			t.Fatal("a message that proves nothing changed the peer")
		}
	})
}

// FuzzDecide holds the clock to its properties.
func FuzzDecide(f *testing.F) {
	f.Add(int64(1), int64(0), int64(0), 0, int64(0), int64(0), int64(0), int64(0), int64(0), false, uint16(0), uint16(0))
	f.Add(int64(200e9), int64(190e9), int64(150e9), 3, int64(0), int64(1e9), int64(2e9), int64(3e9), int64(4e9), true, uint16(25), uint16(333))
	f.Fuzz(func(t *testing.T, now, asked, since int64, attempts int, held, unanswered, owed, traffic, derived int64, connected bool, keepalive, jitter uint16) {
		for _, v := range []int64{now, asked, since, held, unanswered, owed, traffic, derived} {
			if v < 0 || v > int64(100*365*24*time.Hour) {
				return
			}
		}
		h := history{asked: instant(asked), since: instant(since), attempts: attempts, held: instant(held), connected: connected,
			unanswered: instant(unanswered), owed: instant(owed), traffic: instant(traffic), derived: instant(derived),
			keepalive: time.Duration(keepalive) * time.Second, jitter: time.Duration(jitter%334) * time.Millisecond}
		do, next := h.decide(instant(now))
		if next != 0 && next <= instant(now) {
			t.Fatalf("due at %d, before %d", next, now)
		}
		if do&ask != 0 && do&(begin|giveUp) != 0 || do&begin != 0 && h.asked != 0 && do&giveUp == 0 {
			t.Fatalf("contradictory duties %b", do)
		}
		if w := h.retry(); w < firstRetry || w > retryAfter+334*time.Millisecond {
			t.Fatalf("a retry after %s", w)
		}
	})
}

// FuzzRoutes gives and takes prefixes at random and compares every look-up with the plainest way to do it.
func FuzzRoutes(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, x, y uint64) {
		r := rand.New(rand.NewPCG(x, y))
		peers := []*peer{{}, {}, {}}
		var table routes
		plain := map[netip.Prefix]*peer{}
		for range 200 {
			ip := randomPrefix(r)
			p := peers[r.IntN(len(peers))]
			if r.IntN(3) == 0 {
				table.unset(ip, p)
				if plain[ip] == p {
					delete(plain, ip)
				}
			} else {
				table.set(ip, p)
				plain[ip] = p
			}
			a := randomPrefix(r).Addr()
			if got, want := table.lookup(a), longest(plain, a); got != want {
				t.Fatalf("%s leads to %p, want %p", a, got, want)
			}
		}
	})
}

func randomPrefix(r *rand.Rand) netip.Prefix {
	if r.IntN(2) == 0 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.IntN(4))}), r.IntN(33)).Masked()
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(r.IntN(4)), 15: byte(r.IntN(4))}), r.IntN(129)).Masked()
}

func longest(plain map[netip.Prefix]*peer, a netip.Addr) (p *peer) {
	best := -1
	for ip, owner := range plain {
		if ip.Contains(a) && ip.Bits() > best {
			best, p = ip.Bits(), owner
		}
	}
	return p
}

// FuzzPacketSource reads what a peer may have put into a packet.
func FuzzPacketSource(f *testing.F) {
	f.Add(packet(netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2"), "x"))
	six := make([]byte, 41)
	six[0] = 0x60
	binary.BigEndian.PutUint16(six[4:], 1)
	f.Add(six)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, src := packetSource(b)
		if n < 0 || n > len(b) || n > 0 && !src.IsValid() || n > 0 && n < 20 {
			t.Fatalf("%d bytes of %d, from %s", n, len(b), src)
		}
	})
}
