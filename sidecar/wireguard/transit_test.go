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
	"github.com/tenantwire/tenantwire/sidecar/pathmtu"
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

// FuzzTransit has an outside peer send anything at all to a hub, from where the path to the other takes limit bytes (0: all): each packet is
// delivered, passed on, answered or counted, and what is passed on has changed in nothing but its hops. What is told of as too big is
// longer than the limit, and its sender is told the truth.
func FuzzTransit(f *testing.F) {
	hubAddr := netip.MustParseAddr("10.9.0.3")
	f.Add(packet(innerA, innerB, "payload"), uint8(1), uint16(0))
	f.Add(packet(innerA, hubAddr, "for the hub"), uint8(45), uint16(1300))
	f.Add(packet(innerB, innerB, "foreign"), uint8(2), uint16(0))
	f.Add(packet6(2), uint8(3), uint16(1300))
	f.Add([]byte{0x45}, uint8(1), uint16(0))
	f.Add(echo(innerA, hubAddr, pathmtu.Floor, 5, 8), uint8(25), uint16(600))
	f.Add(echo(innerA, innerB, 1420, 5, 8), uint8(120), uint16(1300)) // it is not to be cut
	f.Add(packet(innerA, innerB, strings.Repeat("may be cut", 100)), uint8(2), uint16(600))
	f.Add(uncut(innerA, innerB, 601, 0), uint8(1), uint16(600))
	f.Add(uncut(innerA, innerB, 900, 3), uint8(1), uint16(600)) // an error, as which none is told of
	f.Add(syn(innerA, innerB, 2, 2, 4, 5, 180), uint8(3), uint16(600))
	f.Add(echo(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 1400, 5, 128), uint8(3), uint16(1300))
	f.Add(echo(netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 1280, 5, 128), uint8(3), uint16(600))
	delivered := 0
	e := bare(func(packets [][]byte, _ int) { delivered += len(packets) })
	is := datapath.Interface{Hub: true, MTU: 1420, Addresses: []netip.Prefix{netip.PrefixFrom(hubAddr, 32)}}
	e.SetHub(is)
	e.SetProbes(is)
	var peers [2]*peer
	for i, four := range []netip.Addr{innerA, innerB} {
		other := bare(nil)
		peers[i] = meet(f, e, other, four, key.Preshared{})
		six := netip.MustParsePrefix(fmt.Sprintf("fd00::%d/128", i+1))
		if err := e.UpdatePeers([]datapath.Peer{{PublicKey: other.self, AllowedIPs: []netip.Prefix{netip.PrefixFrom(four, 32), six}}}, nil); err != nil {
			f.Fatal(err)
		}
	}
	from, to := peers[0], peers[1]
	to.path.mu.Lock()
	to.path.target = pathmtu.Aim{} // nobody looks into that path: it takes what is said below
	to.path.settle(e)
	to.path.mu.Unlock()
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
	f.Fuzz(func(t *testing.T, inner []byte, count uint8, limit uint16) {
		if len(inner) == 0 || len(inner) > 2000 || limit != 0 && limit < pathmtu.Floor { // no path is found to take less
			return
		}
		e.count, delivered = counters{}, 0
		from.tx.Store(0)
		from.asks()
		from.path.telling.paid.Store(0)
		to.path.limit.Store(int32(limit))
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
		passed, answered, shortened := 0, 0, bytes.Clone(inner)
		if limit > 0 && delivered == 0 && len(staged) > 0 { // FuzzClampSegments is of this
			size, _ := packetSource(staged[0].Packet(0))
			shortened = append(shortened, make([]byte, max(0, size-len(inner)))...)
			clampSegments(shortened, int(limit))
		}
		for _, b := range staged {
			for i := range b.Len() {
				passed++
				sameButHops(t, shortened, b.Packet(i))
			}
			b.Free()
		}
		c := &e.count
		whole := append(bytes.Clone(inner), make([]byte, padTo)...)
		size, src := packetSource(whole)
		whole = whole[:size]
		if c.tooBig.Load() > 0 {
			rightlyTooBig(t, whole, int(limit))
		} else if passed > 0 && limit > 0 && isTooBig(whole, int(limit)) {
			t.Fatalf("%d bytes were passed on to where %d pass: %x", len(whole), limit, whole)
		}
		switch mine := c.source.Load() == 0; {
		case mine && isProbe(whole, hubAddr):
			answered = int(from.tx.Load()) / (Overhead + size)
		case mine && size > 0 && isAnswerTo(whole):
			answered = 1 // the first: then that probe has its answer
		case from.tx.Load() > 0 && c.tooBig.Load() == 0:
			t.Fatalf("%x from %s was answered", inner, src)
		}
		if dropped := c.source.Load() + c.noPeer.Load() + c.notForwarded.Load() + c.expired.Load() + c.malformed.Load() + c.tooBig.Load(); int(dropped)+delivered+passed+answered != n {
			t.Errorf("of %d packets %d were delivered, %d passed on, %d answered, %d dropped: %v", n, delivered, passed, answered, dropped, e.Drops())
		}
	})
}

// uncut is an ICMP message of that type which nobody may cut.
func uncut(from, to netip.Addr, size int, kind byte) []byte {
	b := packet(from, to, strings.Repeat("x", size-20))
	b[6], b[9], b[20] = 0x40, protocolICMP, kind
	return b
}

// isTooBig says whether a router may not pass a packet on to where limit bytes pass.
func isTooBig(packet []byte, limit int) bool {
	if packet[0]>>4 == 6 {
		return len(packet) > max(limit, datapath.MinMTU)
	}
	return len(packet) > limit && packet[6]&0x40 != 0
}

// rightlyTooBig wants a packet to be too big for a path, and what its sender is told to be true.
func rightlyTooBig(t *testing.T, packet []byte, limit int) {
	t.Helper()
	if !isTooBig(packet, limit) {
		t.Fatalf("%d bytes are too big for %d: %x", len(packet), limit, packet)
	}
	b := tooBigMessage(packet, limit)
	defer b.Free()
	told := b.Packet(0)
	n, src := packetSource(told)
	_, to := packetSource(packet)
	protocol, at := transport(told)
	if n != len(told) || n > datapath.MinMTU || src != packetDestination(packet) || packetDestination(told) != to || !isError(told, protocol, at) ||
		!bytes.HasPrefix(packet, told[at+8:]) {
		t.Fatalf("of %x its sender is told %x", packet, told)
	}
	checkICMP(t, told, protocol, at)
	if mtu := int(binary.BigEndian.Uint32(told[at+4:])); mtu != limit && (to.Is4() || mtu != max(limit, datapath.MinMTU)) {
		t.Fatalf("told of %d bytes, want %d", mtu, limit)
	}
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
