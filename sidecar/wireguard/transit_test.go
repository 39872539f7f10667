package wireguard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
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
		p = make([]byte, 43)
		p[0], p[5], p[6], p[7] = 0x60, 3, 59, n
		copy(p[8:], netip.MustParseAddr("fd00::4").AsSlice())
		copy(p[24:], netip.MustParseAddr("fd00::2").AsSlice())
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
	last := packet(s.outside[0].addr, s.members[0].addr, "its last hop")
	for i, hops := range []byte{0, 1} {
		last[8] = hops
		b := s.outside[0].NewBatch(1420)
		copy(b.Next(len(last)), last)
		s.outside[0].Send(s.members[0].addr, b)
		s.dropped(t, "HopLimit", uint64(1+i))
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
