package wireguard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/pathmtu"
)

// probing makes an engine one that looks into its paths.
func (n *node) probing() *node {
	n.SetProbes(datapath.Interface{MTU: 1420, Addresses: []netip.Prefix{netip.PrefixFrom(n.addr, n.addr.BitLen())}})
	return n
}

func (n *node) path(t *testing.T) datapath.PeerStats {
	t.Helper()
	p, err := n.Peers()
	if err != nil || len(p) != 1 {
		t.Fatalf("peers: %v, %v", p, err)
	}
	return p[0]
}

// TestProbesBetweenEngines: data makes an end look into its path, the other engine answers, and nothing of it is delivered.
func TestProbesBetweenEngines(t *testing.T) {
	a, b := pair(t)
	a.probing()
	b.probing()
	if p := a.path(t); p.MTUState != datapath.MTUUnverified || p.PathMTU != 1420 {
		t.Errorf("before: %+v", p)
	}
	a.sendTo(b.addr, "data")
	b.expect(t, "data")
	eventually(t, "verified", func() bool { p := a.path(t); return p.MTUState == datapath.MTUVerified && p.PathMTU == 1420 })
	if len(a.got)+len(b.got) != 0 {
		t.Error("a probe or an answer was delivered")
	}
	if p := b.path(t); p.MTUState != datapath.MTUUnverified { // it has sent nothing of its own
		t.Errorf("the one that answers: %+v", p)
	}
}

// TestProbesUnanswered: a peer that answers no echo request keeps the MTU, and gets its data.
func TestProbesUnanswered(t *testing.T) {
	a, b := pair(t)
	a.probing()
	a.sendTo(b.addr, "data")
	data, probes := 0, 0
	for range 3 { // in any order; probes are the stack's to answer, or not
		if isICMP(<-b.got) {
			probes++
		} else {
			data++
		}
	}
	if p := a.path(t); data != 1 || probes != 2 || p.PathMTU != 1420 || p.MTUState == datapath.MTUVerified {
		t.Errorf("%d packets of data, %d probes; %+v", data, probes, p)
	}
}

func TestEcho(t *testing.T) {
	for _, a := range [][2]string{{"10.9.0.1", "10.9.0.2"}, {"fd09::1", "fd09::2"}} {
		from, to := netip.MustParseAddr(a[0]), netip.MustParseAddr(a[1])
		for _, size := range []int{pathmtu.Floor, 1281, 1420} {
			b := make([]byte, size)
			writeEcho(b, from, to, 7, 9, 11)
			n, src := packetSource(b)
			protocol, at := transport(b)
			if n != size || src != from || packetDestination(b) != to || !isICMP(b) {
				t.Fatalf("%d bytes from %s: %x", n, src, b[:40])
			}
			checkICMP(t, b, protocol, at)
		}
	}
}

// checkICMP adds up as a host does.
func checkICMP(t *testing.T, b []byte, protocol byte, at int) {
	t.Helper()
	pseudo := []byte{}
	if protocol == protocolICMP6 {
		pseudo = append(slices.Clone(b[8:40]), 0, 0, byte(len(b[at:])>>8), byte(len(b[at:])), 0, 0, 0, protocol)
	} else if got := addUp(0, b[:20]); got != 0xffff {
		t.Errorf("IP checksum: the sum is %x", got)
	}
	if got := addUp(0, append(pseudo, b[at:]...)); got != 0xffff {
		t.Errorf("ICMP checksum: the sum is %x", got)
	}
}

// syn is a TCP packet with options, of which the checksum is right.
func syn(from, to netip.Addr, flags byte, options ...byte) []byte {
	tcp := make([]byte, 20+(len(options)+3)/4*4)
	tcp[12], tcp[13] = byte(len(tcp)/4)<<4, flags
	copy(tcp[20:], options)
	at := 20
	if from.Is6() {
		at = 40
	}
	b := make([]byte, at+len(tcp))
	sealICMP(b, from, to)
	copy(b[at:], tcp)
	if from.Is4() {
		b[9] = protocolTCP
	} else {
		b[6] = protocolTCP
	}
	binary.BigEndian.PutUint16(b[at+16:], ^tcpSum(b, at))
	return b
}

func tcpSum(b []byte, at int) uint16 {
	pseudo := slices.Clone(b[12:20])
	if b[0]>>4 == 6 {
		pseudo = slices.Clone(b[8:40])
	}
	pseudo = append(pseudo, 0, protocolTCP, byte(len(b[at:])>>8), byte(len(b[at:])))
	return addUp(0, append(pseudo, b[at:]...))
}

func TestClampSegments(t *testing.T) {
	const isSyn, isAck = 2, 16
	v4, v6 := innerA, netip.MustParseAddr("fd09::1")
	for name, c := range map[string]struct {
		from    netip.Addr
		flags   byte
		options []byte
		want    int // offset of the option's value among them; -1: nothing changes
		value   uint16
	}{
		"IPv4":                {v4, isSyn, []byte{2, 4, 5, 180}, 2, 1260},
		"IPv6":                {v6, isSyn, []byte{2, 4, 5, 180}, 2, 1240},
		"answered":            {v4, isSyn | isAck, []byte{2, 4, 5, 180}, 2, 1260},
		"behind others":       {v4, isSyn, []byte{1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 5, 180}, 14, 1260},
		"at an odd place":     {v4, isSyn, []byte{1, 2, 4, 5, 180, 0}, 3, 1260},
		"small enough":        {v4, isSyn, []byte{2, 4, 4, 0}, -1, 0},
		"no SYN":              {v4, isAck, []byte{2, 4, 5, 180}, -1, 0},
		"none":                {v4, isSyn, nil, -1, 0},
		"ended":               {v4, isSyn, []byte{0, 2, 4, 5, 180}, -1, 0},
		"cut off":             {v4, isSyn, []byte{1, 1, 2, 4}, -1, 0},
		"a length of nothing": {v4, isSyn, []byte{8, 0, 2, 4, 5, 180}, -1, 0},
	} {
		to := innerB
		if c.from.Is6() {
			to = netip.MustParseAddr("fd09::2")
		}
		b := syn(c.from, to, c.flags, c.options...)
		was := bytes.Clone(b)
		clampSegments(b, 1300)
		_, at := transport(b)
		if c.want < 0 {
			if !bytes.Equal(b, was) {
				t.Errorf("%s: changed", name)
			}
			continue
		}
		if got := binary.BigEndian.Uint16(b[at+20+c.want:]); got != c.value || tcpSum(b, at) != 0xffff {
			t.Errorf("%s: %d, sum %x; want %d", name, got, tcpSum(b, at), c.value)
		}
	}
}

func FuzzClampSegments(f *testing.F) {
	f.Add(syn(innerA, innerB, 2, 2, 4, 5, 180), 1300)
	f.Fuzz(func(_ *testing.T, b []byte, limit int) {
		if n, _ := packetSource(b); n > 0 {
			clampSegments(b[:n], limit)
		}
	})
}

// sendUncut sends a packet of that size that nobody may cut.
func (n *node) sendUncut(to netip.Addr, size int) []byte {
	p := packet(n.addr, to, strings.Repeat("x", size-20))
	p[6] |= 0x40
	binary.BigEndian.PutUint16(p[10:], ^addUp(0, p[:20]))
	b := n.NewBatch(size)
	copy(b.Next(size), p)
	n.Send(to, b)
	return p
}

// TestHubSaysTooBig: who sends what the next peer's path does not take is told, unless it may be cut.
func TestHubSaysTooBig(t *testing.T) {
	s := newStar(t)
	m, o := s.members[0], s.outside[0]
	m.sendTo(o.addr, "first")
	o.expect(t, "first")
	next := s.hub.peer(o.self)
	next.path.limit.Store(1300)
	long := m.sendUncut(o.addr, 1400)
	select {
	case got := <-m.got:
		_, src := packetSource(got)
		protocol, at := transport(got)
		if src != o.addr || protocol != protocolICMP || got[at] != 3 || got[at+1] != 4 || binary.BigEndian.Uint16(got[at+6:]) != 1300 ||
			!bytes.Equal(got[at+8:at+28], long[:20]) {
			t.Errorf("told %x", got)
		}
		checkICMP(t, got, protocol, at)
	case <-time.After(10 * time.Second):
		t.Fatal("not told")
	}
	s.dropped(t, "TooBig", 1)
	m.sendTo(o.addr, strings.Repeat("y", 1380)) // may be cut
	o.expect(t, strings.Repeat("y", 1380))
	m.sendTo(o.addr, strings.Repeat("z", 1200))
	o.expect(t, strings.Repeat("z", 1200))
}

// searched is a search, an hour ago, on a path that takes mtu bytes, as far as until says that it is what is wanted.
func searched(mtu int, until func(*pathmtu.Search) bool) (s pathmtu.Search) {
	s.Data(-time.Hour, 1420, 1420, 0)
	for !until(&s) {
		now := s.Until()
		for _, size := range s.Next(now) {
			if size != 0 && size <= mtu {
				s.Answered(now, size, 0)
			}
		}
	}
	return s
}

// TestFollowMTU tells of limits by allowed IP, when one is found, and when its peer goes.
func TestFollowMTU(t *testing.T) {
	var told map[netip.Prefix]int
	a := open(t, 1, func(o *Options) { o.FollowMTU = func(m map[netip.Prefix]int) error { told = m; return nil } })
	b := open(t, 2)
	know(t, a, b.as())
	p := a.peer(b.self)
	p.path.mu.Lock()
	p.path.search = searched(1312, func(s *pathmtu.Search) bool { return s.State() == datapath.MTUVerified })
	p.path.settle(a.Engine)
	p.path.mu.Unlock()
	if a.PathMTU(b.addr) != 1312 || a.PathMTU(a.addr) != 0 {
		t.Errorf("%d to the peer, %d to nobody", a.PathMTU(b.addr), a.PathMTU(a.addr))
	}
	p.lookIntoPath(a.now())
	if len(told) != 1 || told[netip.PrefixFrom(b.addr, 32)] != 1312 {
		t.Errorf("told %v", told)
	}
	if err := a.UpdatePeers(nil, []key.Public{b.self}); err != nil {
		t.Fatal(err)
	}
	if len(told) != 0 || a.narrow.Load() != 0 {
		t.Errorf("without the peer: told %v, %d have a limit", told, a.narrow.Load())
	}
}

// TestFollowAnswers: what an answer ends is told as well, be it a search for less or a raise.
func TestFollowAnswers(t *testing.T) {
	told := make(chan map[netip.Prefix]int, 10)
	a := open(t, 1, func(o *Options) { o.FollowMTU = func(m map[netip.Prefix]int) error { told <- m; return nil } })
	b := open(t, 2)
	know(t, a, b.as())
	know(t, b, a.as())
	a.probing()
	b.probing()
	a.sendTo(b.addr, "data")
	eventually(t, "verified", func() bool { return a.path(t).MTUState == datapath.MTUVerified })
	p, to := a.peer(b.self), netip.PrefixFrom(b.addr, 32)
	look := func(s pathmtu.Search) {
		p.path.mu.Lock()
		p.path.search = s
		p.path.settle(a.Engine)
		p.path.mu.Unlock()
		p.alarm(a.now())
	}
	expect := func(what string, limit int) {
		t.Helper()
		for {
			select {
			case m := <-told:
				if m[to] == limit && (limit != 0 || len(m) == 0) {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: %d is never told", what, limit)
			}
		}
	}
	look(searched(1280, func(s *pathmtu.Search) bool { r := *s; return r.Limit() == 1280 && r.Next(r.Until())[0] == 1296 }))
	expect("found by an answer", 1296)
	raising := searched(1296, func(s *pathmtu.Search) bool { return s.State() == datapath.MTUVerified })
	raising.Data(time.Duration(a.now()), 1420, 1420, 0)
	look(raising)
	expect("raised", 0)
	if len(told) != 0 || a.PathMTU(b.addr) != 0 {
		t.Errorf("told %d times more; %d bytes", len(told), a.PathMTU(b.addr))
	}
}

// TestHubSaysTooBigToEach: who was told too often takes nothing from others.
func TestHubSaysTooBigToEach(t *testing.T) {
	s := newStar(t)
	o := s.outside[0]
	s.members[0].sendTo(o.addr, "first")
	o.expect(t, "first")
	s.hub.peer(o.self).path.limit.Store(1300)
	s.hub.peer(s.members[0].self).path.telling.spend(s.hub.now(), time.Hour)
	s.members[0].sendUncut(o.addr, 1400)
	s.dropped(t, "TooBig", 1)
	s.members[1].sendUncut(o.addr, 1400)
	select {
	case got := <-s.members[1].got:
		if _, src := packetSource(got); src != o.addr || !isICMP(got) {
			t.Errorf("told %x", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("the other is not told")
	}
	s.members[0].expectNothing(t, 0)
}

// TestAnswersAreBounded, for each peer and for all of them: what is beyond is left to the stack.
func TestAnswersAreBounded(t *testing.T) {
	e, own := bare(nil), []netip.Addr{innerA}
	probe := make([]byte, pathmtu.Floor)
	answered := func(now instant, p *peer, tries int) (n int) {
		for range tries {
			writeEcho(probe, innerB, innerA, 7, 9, 11)
			if p.answers(now, probe, own) {
				n++
			}
		}
		return n
	}
	const each, all = int(answerBurst / answerCost), int(answerAllBurst / answerAllCost)
	at, total := instant(1), 0
	for i := range 2 * all / each {
		n := answered(at, newPeer(e, key.NewPrivate().Public()), 2*each)
		if total += n; n > each || i == 0 && n != each {
			t.Errorf("%d answers to peer %d", n, i)
		}
	}
	if total != all {
		t.Errorf("%d answers to all, want %d", total, all)
	}
	if n := answered(at.add(10*answerAllCost), newPeer(e, key.NewPrivate().Public()), each); n != 10 {
		t.Errorf("%d answers after a while", n)
	}
}

// TestAnswerOfAnotherPath: what an answer that comes late says holds for the path that it was asked on.
func TestAnswerOfAnotherPath(t *testing.T) {
	for name, c := range map[string]struct {
		moves bool
		want  datapath.MTUState
	}{"the same": {false, datapath.MTUVerified}, "another": {true, datapath.MTUUnverified}} {
		e := bare(nil)
		p := meet(t, e, bare(nil), innerB, key.Preshared{})
		t.Cleanup(p.remove)
		o, now := &p.path, e.now()
		o.mu.Lock()
		o.search.Data(time.Duration(now), 1420, 1420, 0)
		b := o.probe(now, o.search.Next(time.Duration(now))[0], []netip.Addr{innerA})
		o.mu.Unlock()
		if c.moves {
			p.move(elsewhere)
		}
		answer := b.packets[0][HeaderSize:]
		answer[20] = 0
		if took := p.isAnswer(now.add(time.Millisecond), answer); took == c.moves {
			t.Errorf("%s: taken for an answer: %t", name, took)
		}
		if size, state := p.pathStats(); state != c.want || size != 1420 {
			t.Errorf("%s: %d bytes, %s", name, size, state)
		}
	}
}

// TestNobodyToProbe: a peer without an address that may be its own is not watched after the first batch, until it has one.
func TestNobodyToProbe(t *testing.T) {
	a, b := pair(t)
	a.probing()
	b.probing()
	p, is := a.peer(b.self), b.as()
	is.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
	know(t, a, is)
	a.sendTo(b.addr, "data")
	b.expect(t, "data")
	if w := &p.path.watched; min(w.any.Load(), w.large.Load(), w.stalled.Load()) < int64(a.now().add(time.Hour)) {
		t.Errorf("watched from %d, %d, %d", w.any.Load(), w.large.Load(), w.stalled.Load())
	}
	know(t, a, b.as())
	a.sendTo(b.addr, "more")
	b.expect(t, "more")
	eventually(t, "verified", func() bool { return a.path(t).MTUState == datapath.MTUVerified })
}
