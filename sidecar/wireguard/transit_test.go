package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// star is a hub with two members and two outside peers around it, all of which have every address behind the hub.
type star struct {
	hub     *node
	members [2]*node
	outside [2]*node
}

func newStar(t testing.TB) *star {
	t.Helper()
	s := &star{hub: open(t, 1)}
	s.hub.SetHub(datapath.Interface{Hub: true, Addresses: []netip.Prefix{netip.PrefixFrom(s.hub.addr, 32)}})
	all := s.hub.as()
	all.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	add := func(i byte, outside bool) *node {
		n := open(t, i)
		know(t, n, all)
		p := n.as()
		p.Outside = outside
		know(t, s.hub, p)
		return n
	}
	s.members = [2]*node{add(2, false), add(3, false)}
	s.outside = [2]*node{add(4, true), add(5, true)}
	return s
}

// dropped waits until the hub has counted so many.
func (s *star) dropped(t *testing.T, why string, want uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d packets dropped for %s, but %v", want, why, s.hub.Drops()), func() bool { return s.hub.Drops()[why] == want })
}

func TestHubPassesOn(t *testing.T) {
	s := newStar(t)
	m, o := s.members[0], s.outside[0]
	for _, way := range [][2]*node{{o, m}, {m, o}} {
		from, to := way[0], way[1]
		from.sendTo(to.addr, "first") // makes two handshakes
		to.expect(t, "first")
		var many []string
		for i := range MaxPackets - 1 {
			many = append(many, fmt.Sprintf("%04d", i)+strings.Repeat("x", 900))
		}
		many = append(many, "the last is shorter")
		from.sendTo(to.addr, many...)
		for _, p := range many {
			to.expect(t, p)
		}
		from.sendTo(s.hub.addr, "for the hub")
		s.hub.expect(t, "for the hub")
	}
}

// What comes without padding has no room for any, and leaves without.
func TestHubPassesOnUnpadded(t *testing.T) {
	s := newStar(t)
	m := s.members[0]
	o := open(t, 6, func(o *Options) { o.MTU = func() int { return 0 } })
	all := s.hub.as()
	all.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	know(t, o, all)
	p := o.as()
	p.Outside = true
	know(t, s.hub, p)
	o.sendTo(m.addr, "1")
	m.expect(t, "1")
	o.sendTo(m.addr, "abc", "def", "ghi", "j") // of one message
	for _, p := range []string{"abc", "def", "ghi", "j"} {
		m.expect(t, p)
	}
}

// A run for several destinations, the hub among them, comes apart as it should.
func TestHubSortsOut(t *testing.T) {
	s := newStar(t)
	o := s.outside[0]
	to := []*node{s.members[0], s.hub, s.members[1], s.members[1], s.members[0]}
	b := o.NewBatch(MaxPackets * 1420)
	for i, n := range to {
		p := packet(o.addr, n.addr, fmt.Sprint(i))
		copy(b.Next(len(p)), p)
	}
	o.Send(s.hub.addr, b)
	s.hub.expect(t, "1")
	s.members[0].expect(t, "0")
	s.members[0].expect(t, "4")
	s.members[1].expect(t, "2")
	s.members[1].expect(t, "3")
}

func TestHubRefuses(t *testing.T) {
	s := newStar(t)
	m, o := s.members[0], s.outside[0]
	o.sendTo(m.addr, "reaches")
	m.expect(t, "reaches")
	m.sendTo(o.addr, "answers")
	o.expect(t, "answers")

	o.sendTo(s.outside[1].addr, "among outside peers")
	s.dropped(t, "NotForwarded", 1)
	m.sendTo(s.members[1].addr, "among members")
	s.dropped(t, "NotForwarded", 2)
	o.sendTo(o.addr, "back where it came from")
	s.dropped(t, "NotForwarded", 3)
	o.sendTo(netip.MustParseAddr("10.8.0.1"), "to nobody")
	s.dropped(t, "NoPeer", 1)

	spoofed := func(from string) {
		b := o.NewBatch(1420)
		p := packet(netip.MustParseAddr(from), m.addr, "spoofed")
		copy(b.Next(len(p)), p)
		o.Send(m.addr, b)
	}
	spoofed(m.addr.String())
	spoofed("10.9.0.77")
	spoofed(s.hub.addr.String())
	s.dropped(t, "ForeignSource", 3)
	everything := o.as()
	everything.Outside, everything.AllowedIPs = true, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	know(t, s.hub, everything)
	for i, from := range []string{m.addr.String(), s.hub.addr.String(), "127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255"} {
		spoofed(from)
		s.dropped(t, "ForeignSource", uint64(4+i))
	}
	for i, to := range []string{"127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0"} { // which the peer of everything would get
		m.sendTo(netip.MustParseAddr(to), "to where no host is")
		s.dropped(t, "NoPeer", uint64(2+i))
	}
	for _, n := range append(s.members[:], s.outside[:]...) {
		n.expectNothing(t, 50*time.Millisecond)
	}
	s.hub.SetHub(datapath.Interface{})
	o.sendTo(m.addr, "to one that is no hub any more")
	s.hub.expect(t, "to one that is no hub any more") // whose TCP/IP stack refuses it
	m.expectNothing(t, 50*time.Millisecond)
}

// A change of a peer's kind counts at once, for either direction.
func TestHubFollowsKinds(t *testing.T) {
	s := newStar(t)
	m, o := s.members[0], s.outside[0]
	o.sendTo(m.addr, "outside")
	m.expect(t, "outside")
	inside := o.as()
	know(t, s.hub, inside)
	o.sendTo(m.addr, "a member")
	s.dropped(t, "NotForwarded", 1)
	o.sendTo(s.outside[1].addr, "a member")
	s.outside[1].expect(t, "a member")
}

// hops sends a packet that may make so many hops and returns what arrives.
func (s *star) hops(t *testing.T, n byte, six bool) []byte {
	t.Helper()
	m, o := s.members[0], s.outside[0]
	b := o.NewBatch(1420)
	p := packet(o.addr, m.addr, "hop")
	p[8], p[9] = n, 17
	binary.BigEndian.PutUint16(p[10:], ^checksum(p[:20]))
	if six {
		p = packet6(n)
	}
	copy(b.Next(len(p)), p)
	o.Send(m.addr, b)
	select {
	case p := <-m.got:
		return p
	case <-time.After(5 * time.Second):
		t.Fatalf("%d hops: nothing arrived", n)
	}
	return nil
}

// packet6 is from an outside peer to a member, in IPv6, and may make so many hops.
func packet6(hops byte) []byte {
	p := make([]byte, 43)
	p[0], p[5], p[6], p[7] = 0x60, 3, 59, hops
	copy(p[8:], netip.MustParseAddr("fd00::4").AsSlice())
	copy(p[24:], netip.MustParseAddr("fd00::2").AsSlice())
	return p
}

func TestHubCountsHops(t *testing.T) {
	s := newStar(t)
	for n, outside := range map[*node]bool{s.members[0]: false, s.outside[0]: true} {
		p := n.as()
		p.Outside = outside
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00::%d", n.addr.As4()[3])), 128))
		know(t, s.hub, p)
	}
	for n := 255; n > 1; n-- {
		if p := s.hops(t, byte(n), false); int(p[8]) != n-1 || checksum(p[:20]) != 0xffff {
			t.Fatalf("%d hops became %d, header sums up to %#x", n, p[8], checksum(p[:20]))
		}
	}
	if p := s.hops(t, 64, true); p[7] != 63 {
		t.Errorf("64 hops became %d", p[7])
	}
	for i, hops := range []byte{0, 1} {
		for j, last := range [][]byte{packet(s.outside[0].addr, s.members[0].addr, "its last hop"), packet6(hops)} {
			if j == 0 {
				last[8] = hops
			}
			b := s.outside[0].NewBatch(1420)
			copy(b.Next(len(last)), last)
			s.outside[0].Send(s.members[0].addr, b)
			s.dropped(t, "HopLimit", uint64(1+2*i+j))
		}
	}
}

// checksum is the internet's sum of a header, not complemented: 0xffff of one that holds its own checksum.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// FuzzTransit has an outside peer send anything at all to a hub: each packet is delivered, passed on or counted, and what is passed on
// has changed in nothing but its hops.
func FuzzTransit(f *testing.F) {
	f.Add(packet(innerA, innerB, "payload"), uint8(1))
	f.Add(packet(innerA, netip.MustParseAddr("10.9.0.3"), "for the hub"), uint8(45))
	f.Add(packet(innerB, innerB, "foreign"), uint8(2))
	f.Add(packet6(2), uint8(3))
	f.Add([]byte{0x45}, uint8(1))
	delivered := 0
	e := bare(func(packets [][]byte, _ int) { delivered += len(packets) })
	e.SetHub(datapath.Interface{Hub: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.3/32")}})
	from, to := meet(f, e, bare(nil), innerA, key.Preshared{}), meet(f, e, bare(nil), innerB, key.Preshared{})
	from.still()
	to.still()
	from.outside.Store(true)
	looped := func(p *peer, k byte) *session {
		p.forgetSessions()
		s := &session{peer: p, created: e.now(), sends: transportCipher(hash32{k}), receives: transportCipher(hash32{k})}
		s.local = e.index.add(entry{peer: p, session: s})
		s.remote = s.local
		p.current.Store(s) // so that it is forgotten the next time
		return s
	}
	r := receiver{engine: e}
	f.Fuzz(func(t *testing.T, inner []byte, count uint8) {
		if len(inner) == 0 || len(inner) > 2000 {
			return
		}
		e.count, delivered = counters{}, 0
		in := looped(from, 1)
		to.forgetSessions() // what is passed on waits for one
		n := 1 + int(count)%MaxPackets
		var data []byte
		each := 0
		for range n {
			b := NewBatch(len(inner), 1420)
			copy(b.Next(len(inner)), inner)
			in.seal(b)
			each = len(b.packets[0])
			data = append(data, b.packets[0]...)
			b.Free()
		}
		r.take(&message{data: data, each: each, from: elsewhere})
		to.mu.Lock()
		staged := to.takeStaged()
		to.stopAsking()
		to.mu.Unlock()
		passed := 0
		for _, b := range staged {
			for i := range b.Len() {
				passed++
				sameButHops(t, inner, b.Packet(i))
			}
			b.Free()
		}
		c := &e.count
		if dropped := c.source.Load() + c.noPeer.Load() + c.notForwarded.Load() + c.expired.Load() + c.malformed.Load(); int(dropped)+delivered+passed != n {
			t.Errorf("of %d packets %d were delivered, %d passed on, %d dropped: %v", n, delivered, passed, dropped, e.Drops())
		}
	})
}

// sameButHops wants a packet to be as it was, up to padding, but for a hop less and an IPv4 checksum that says so.
func sameButHops(t *testing.T, was, is []byte) {
	t.Helper()
	hops := 7
	if was[0]>>4 == 4 {
		hops = 8
	}
	if len(is) < len(was) || is[hops] != was[hops]-1 {
		t.Fatalf("%x became %x", was, is)
	}
	back := bytes.Clone(is)
	back[hops]++
	if hops == 8 {
		if got, want := binary.BigEndian.Uint16(is[10:])-binary.BigEndian.Uint16(was[10:]), uint16(0x100); got != want && got != want+1 {
			t.Fatalf("the checksum went from %x to %x", was[10:12], is[10:12])
		}
		copy(back[10:12], was[10:12])
	}
	if !bytes.HasPrefix(back, was) || len(bytes.Trim(back[len(was):], "\x00")) > 0 {
		t.Fatalf("%x became %x", was, is)
	}
}
