package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	sums "gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// mappedSite is a peer with hosts behind it that are seen under other addresses, and an address of its own.
var mappedSite = datapath.Peer{
	AllowedIPs: pfx("10.77.0.200/32", "192.168.20.0/24", "172.20.32.0/20", "fd20:0:0:ff00::/56", "fd77::200/128", "fd21::7/128"),
	Mappings: []datapath.Mapping{
		mapping("192.168.10.0/24", "192.168.20.0/24"), mapping("172.16.16.0/20", "172.20.32.0/20"),
		mapping("fd10:0:0:4200::/56", "fd20:0:0:ff00::/56"), mapping("fd11::7/128", "fd21::7/128"),
	},
}

func pfx(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func mapping(realRange, seen string) datapath.Mapping {
	return datapath.Mapping{Real: netip.MustParsePrefix(realRange), Seen: netip.MustParsePrefix(seen)}
}

// dealer makes packets at random. The same seed makes the same packet but for its addresses, and all checksums are made from scratch:
// what a packet with other addresses has to look like is what comes out when it is made with them.
type dealer struct{ *rand.Rand }

func deal(seed uint64) dealer { return dealer{rand.New(rand.NewPCG(seed, 77))} }

// host is an address in a range.
func (d dealer) host(r netip.Prefix) netip.Addr {
	var host [16]byte
	for i := range host {
		host[i] = byte(d.Uint32())
	}
	a := r.Addr().AsSlice()
	for bit := r.Bits(); bit < len(a)*8; bit++ {
		a[bit/8] |= host[bit/8] & (0x80 >> (bit % 8))
	}
	out, _ := netip.AddrFromSlice(a)
	return out
}

func (d dealer) bytes(most int) []byte {
	b := make([]byte, d.IntN(most+1))
	for i := range b {
		b[i] = byte(d.Uint32())
	}
	return b
}

// packet is one from src to dst, which may be an ICMP error about one from toward to from.
func (d dealer) packet(src, dst, from, toward netip.Addr) []byte {
	if d.IntN(4) == 0 {
		quoted := d.plain(from, toward)
		n := d.IntN(len(quoted)+1) &^ 1 // half a checksum is left as it is
		if n < 20 || src.Is6() && n < 40 {
			n = 0 // so is half an IP header
		}
		return d.wrap(src, dst, d.icmpError(src, dst, quoted[:n]), false)
	}
	return d.plain(src, dst)
}

// payload is a transport header, made right for the addresses, and what comes after it.
type payload struct {
	protocol tcpip.TransportProtocolNumber
	b        []byte
}

func (d dealer) plain(src, dst netip.Addr) []byte {
	p := payload{b: make([]byte, 20, 400)}
	for i := range p.b {
		p.b[i] = byte(d.Uint32())
	}
	data := d.bytes(200)
	at, none := 0, false
	switch d.IntN(5) {
	case 0:
		p.protocol, at, p.b[12] = header.TCPProtocolNumber, 16, 5<<4
	case 1:
		p.protocol, at, p.b = header.UDPProtocolNumber, 6, p.b[:8]
		binary.BigEndian.PutUint16(p.b[4:], uint16(8+len(data)))
		none = d.IntN(3) == 0
	case 2:
		p.protocol, at, p.b = header.ICMPv4ProtocolNumber, 2, p.b[:8]
		p.b[0] = 8
		if src.Is6() {
			p.protocol, p.b[0] = header.ICMPv6ProtocolNumber, 128
		}
	case 3:
		p.protocol, at, p.b = 136, 6, p.b[:8]
	default:
		p.protocol, at = 132, -1 // SCTP, whose checksum covers no address
	}
	p.b = append(p.b, data...)
	if at >= 0 {
		p.sum(src, dst, at, none)
	}
	return d.wrap(src, dst, p, d.IntN(3) == 0)
}

// sum makes the payload's checksum.
func (p *payload) sum(src, dst netip.Addr, at int, none bool) {
	p.b[at], p.b[at+1] = 0, 0
	if none {
		return
	}
	pseudo := uint16(0)
	if p.protocol != header.ICMPv4ProtocolNumber {
		pseudo = header.PseudoHeaderChecksum(p.protocol, tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice()), uint16(len(p.b)))
	}
	sum := ^sums.Checksum(p.b, pseudo)
	if sum == 0 && (p.protocol == header.UDPProtocolNumber || p.protocol == 136) {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(p.b[at:], sum)
}

func (d dealer) icmpError(src, dst netip.Addr, quoted []byte) payload {
	p := payload{header.ICMPv4ProtocolNumber, []byte{[]byte{3, 4, 11, 12}[d.IntN(4)], byte(d.IntN(5)), 0, 0, 0, 0, 5, 0x14}}
	if src.Is6() {
		p.protocol, p.b[0] = header.ICMPv6ProtocolNumber, byte(1+d.IntN(4))
	}
	p.b = append(p.b, quoted...)
	p.sum(src, dst, 2, false)
	return p
}

// wrap puts an IP header before a payload, with options or extensions; of a fragmented one it leaves one fragment, the first with all
// of the transport header, as hosts do.
func (d dealer) wrap(src, dst netip.Addr, p payload, fragment bool) []byte {
	first, offset := d.IntN(2) == 0, 0
	if fragment = fragment && len(p.b) > 24; fragment {
		cut := min(8*(3+d.IntN(6)), len(p.b)/8*8)
		if first {
			p.b = p.b[:cut]
		} else {
			p.b, offset = p.b[cut:], cut/8
		}
	}
	if src.Is4() {
		return d.wrap4(src, dst, p, fragment && first, offset)
	}
	return d.wrap6(src, dst, p, fragment, first, offset)
}

func (d dealer) wrap4(src, dst netip.Addr, p payload, more bool, offset int) []byte {
	options := make([]byte, 4*d.IntN(3))
	for i := range options {
		options[i] = 1
	}
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45+byte(len(options)/4), 64, byte(p.protocol)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(options)+len(p.b)))
	binary.BigEndian.PutUint16(b[6:], uint16(offset))
	if more {
		b[6] |= 0x20
	}
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[10:], ^sums.Checksum(b, 0))
	return append(b, p.b...)
}

func (d dealer) wrap6(src, dst netip.Addr, p payload, fragment, more bool, offset int) []byte {
	var ext []byte
	kinds, next := []byte{}, byte(p.protocol)
	for range d.IntN(4) {
		kinds = append(kinds, []byte{hopByHop, destinations, routingHeader}[d.IntN(3)])
	}
	if fragment {
		kinds = append(kinds, fragmentHeader)
	}
	for i, k := range kinds {
		after := next
		if i+1 < len(kinds) {
			after = kinds[i+1]
		}
		h := make([]byte, 8+8*d.IntN(2))
		h[0], h[1] = after, byte(len(h)/8-1)
		if k == fragmentHeader {
			h = append(h[:0], after, 0, byte(offset>>5), byte(offset<<3), 0, 0, 0, 7)
			if more {
				h[3] |= 1
			}
		}
		ext = append(ext, h...)
	}
	if len(kinds) > 0 {
		next = kinds[0]
	}
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(ext)+len(p.b)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(append(b, ext...), p.b...)
}

// Of packets of every shape, in both directions: what comes out of a mapper is, to the byte, the packet as it would have been made with
// the other addresses.
func TestMappingIsAsMadeAnew(t *testing.T) {
	m := newMapper(mappedSite)
	for seed := range uint64(100_000) {
		d := deal(seed)
		x := mappedSite.Mappings[d.IntN(len(mappedSite.Mappings))]
		realHost := d.host(x.Real)
		h := realHost.AsSlice()
		for bit := range x.Seen.Bits() {
			mask := byte(0x80) >> (bit % 8)
			h[bit/8] = h[bit/8]&^mask | x.Seen.Addr().AsSlice()[bit/8]&mask
		}
		seenHost, _ := netip.AddrFromSlice(h)
		member := netip.MustParseAddr("10.77.0.1")
		router := netip.MustParseAddr("10.77.0.200")
		if realHost.Is6() {
			member, router = netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::200")
		}
		// A host sends, and its router sends errors about what went to the host.
		from := [2]netip.Addr{realHost, seenHost}
		if d.IntN(8) == 0 {
			from = [2]netip.Addr{router, router}
		}
		was := deal(seed).packet(from[0], member, member, realHost)
		want := deal(seed).packet(from[1], member, member, seenHost)
		got := bytes.Clone(was)
		if src, ok := m.inbound(got); !ok || src != from[1] || !bytes.Equal(got, want) {
			t.Fatalf("seed %d, from the peer: %v\n%x became\n%x, want\n%x", seed, ok, was, got, want)
		}
		// A member sends to the host, or an error about what the host sent.
		was = deal(seed).packet(member, seenHost, seenHost, member)
		want = deal(seed).packet(member, realHost, realHost, member)
		b := NewBatch(len(was), 1420)
		copy(b.Next(len(was)), was)
		if !m.outbound(b) || !bytes.Equal(b.Packet(0), want) {
			t.Fatalf("seed %d, to the peer:\n%x became\n%x, want\n%x", seed, was, b.Packet(0), want)
		}
		b.Free()
	}
}

// What is not the peer's is refused either way: the addresses that others see, as a source; those that the hosts have, as a destination.
func TestMappingRefuses(t *testing.T) {
	m := newMapper(mappedSite)
	for _, c := range []struct {
		src     string
		in, out bool
	}{
		{"192.168.10.7", true, false}, {"192.168.20.7", false, true}, {"10.77.0.200", true, true}, {"10.77.0.1", false, false},
		{"172.16.31.255", true, false}, {"172.16.32.0", false, false}, {"172.20.47.255", false, true}, {"172.20.48.0", false, false},
		{"fd10:0:0:42ff::1", true, false}, {"fd20:0:0:ff00::1", false, true}, {"fd10:0:0:4300::1", false, false}, {"fd11::7", true, false},
		{"fd11::8", false, false}, {"fd77::200", true, true},
	} {
		a, other := netip.MustParseAddr(c.src), netip.MustParseAddr("10.77.0.1")
		if a.Is6() {
			other = netip.MustParseAddr("fd77::1")
		}
		p := deal(1).plain(a, other)
		if _, ok := m.inbound(bytes.Clone(p)); ok != c.in {
			t.Errorf("from %s: taken %v", a, ok)
		}
		p = deal(1).plain(other, a)
		b := NewBatch(len(p), 1420)
		copy(b.Next(len(p)), p)
		if ok := m.outbound(b); ok != c.out {
			t.Errorf("to %s: taken %v", a, ok)
		}
		b.Free()
	}
	b := NewBatch(0, 1420)
	b.Next(0)
	if !m.outbound(b) {
		t.Error("a keepalive was refused")
	}
	b.Free()
}

// A UDP checksum of zero says that there is none, so none may become that.
func TestMappingNeverDisablesUDPChecksums(t *testing.T) {
	m := newMapper(mappedSite)
	src, seen, dst := netip.MustParseAddr("192.168.10.7"), netip.MustParseAddr("192.168.20.7"), netip.MustParseAddr("10.77.0.1")
	p := payload{header.UDPProtocolNumber, []byte{0, 53, 0, 53, 0, 10, 0, 0, 0, 0}}
	found := false
	for n := range 1 << 16 { // one of these data sums up to zero
		binary.BigEndian.PutUint16(p.b[8:], uint16(n))
		p.sum(src, dst, 6, false)
		b := deal(3).wrap4(src, dst, p, false, 0)
		at := int(b[0]&15)*4 + 6
		if _, ok := m.inbound(b); !ok || b[at]|b[at+1] == 0 {
			t.Fatalf("%v: %x", ok, b)
		}
		found = found || binary.BigEndian.Uint16(b[at:]) == 0xffff
		p.sum(seen, dst, 6, false)
		if !bytes.Equal(b[at:at+2], p.b[6:8]) {
			t.Fatalf("checksum %x, want %x", b[at:at+2], p.b[6:8])
		}
	}
	if !found {
		t.Error("none of all data sums up to zero")
	}
}

func TestMappingAllocatesNothing(t *testing.T) {
	m := newMapper(mappedSite)
	p := deal(5).packet(netip.MustParseAddr("192.168.10.7"), netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("192.168.10.7"))
	b := bytes.Clone(p)
	if n := testing.AllocsPerRun(100, func() { copy(b, p); m.inbound(b) }); n != 0 {
		t.Errorf("%v allocations a packet", n)
	}
}

// sound says of which checksums of a packet are right; what it cannot judge, it leaves out. It is gVisor's reading, not ours.
func sound(b []byte) map[string]bool {
	out := map[string]bool{}
	n, _ := packetSource(b)
	if n == 0 {
		return out
	}
	b = b[:n]
	var src, dst tcpip.Address
	var protocol tcpip.TransportProtocolNumber
	var rest []byte
	if b[0]>>4 == 4 {
		ip := header.IPv4(b)
		if !ip.IsValid(len(b)) {
			return out
		}
		out["IPv4"] = ip.IsChecksumValid()
		if ip.FragmentOffset() != 0 || ip.More() {
			return out
		}
		src, dst, protocol, rest = ip.SourceAddress(), ip.DestinationAddress(), ip.TransportProtocol(), b[ip.HeaderLength():]
	} else {
		ip := header.IPv6(b)
		src, dst, protocol, rest = ip.SourceAddress(), ip.DestinationAddress(), tcpip.TransportProtocolNumber(ip.NextHeader()), b[40:]
	}
	pseudo := header.PseudoHeaderChecksum(protocol, src, dst, uint16(len(rest)))
	whole := sums.Checksum(rest, pseudo) == 0xffff
	switch {
	case protocol == header.TCPProtocolNumber && len(rest) >= 20:
		out["TCP"] = whole
	case protocol == header.UDPProtocolNumber && len(rest) >= 8 && rest[6]|rest[7] != 0:
		out["UDP"] = whole
	case protocol == header.ICMPv6ProtocolNumber && b[0]>>4 == 6 && len(rest) >= 8:
		out["ICMPv6"] = whole
	case protocol == header.ICMPv4ProtocolNumber && b[0]>>4 == 4 && len(rest) >= 8:
		out["ICMP"] = sums.Checksum(rest, 0) == 0xffff
	}
	return out
}

// FuzzMapping has a mapper take anything at all that the engine takes for a packet: nothing but addresses and checksums changes, no
// checksum that was right is wrong afterwards, and what was mapped maps back and forth.
func FuzzMapping(f *testing.F) {
	for seed := range uint64(40) {
		for _, x := range mappedSite.Mappings {
			member := netip.MustParseAddr("10.77.0.1")
			if x.Real.Addr().Is6() {
				member = netip.MustParseAddr("fd77::1")
			}
			d := deal(seed)
			f.Add(d.packet(d.host(x.Real), member, member, d.host(x.Real)))
		}
	}
	f.Add([]byte{0x45})
	m := newMapper(mappedSite)
	back := m.in
	back.v4, back.v6 = m.out.v4, m.out.v6
	f.Fuzz(func(t *testing.T, was []byte) {
		if n, _ := packetSource(was); n == 0 {
			return
		}
		before, is := sound(was), bytes.Clone(was)
		n, _ := packetSource(was)
		if _, ok := m.inbound(is[:n]); !ok {
			if !bytes.Equal(is, was) {
				t.Fatalf("%x was refused, and became %x", was, is)
			}
			return
		}
		after := sound(is)
		for what, right := range before {
			if right && !after[what] {
				t.Fatalf("the checksum of %s is wrong now: %x became %x", what, was, is)
			}
		}
		there := bytes.Clone(is)
		if !back.rewrite(is[:n]) {
			t.Fatalf("%x does not map back", is)
		}
		if _, ok := m.inbound(is[:n]); !ok {
			t.Fatalf("%x maps back to %x, which is refused", there, is)
		}
		for i := range there {
			if there[i] != is[i] && !twoZeros(there, is, i) {
				t.Fatalf("byte %d: %x became %x, went back, and then became %x", i, was, there, is)
			}
		}
	})
}

// twoZeros says whether byte i is of a word that is zero both ways in which checksums can say it.
func twoZeros(a, b []byte, i int) bool {
	i &^= 1
	return i+2 <= len(a) && a[i] == a[i+1] && b[i] == b[i+1] && a[i]+b[i] == 0xff && (a[i] == 0 || b[i] == 0)
}

// Two sites with one CIDR: each is reached by the addresses that it is seen under, and answers from them.
func TestHubMapsSites(t *testing.T) {
	s := newStar(t)
	m := s.members[0]
	host := netip.MustParseAddr("192.168.10.20")
	seen := [2]netip.Addr{host, netip.MustParseAddr("192.168.20.20")}
	for i, o := range s.outside {
		p := o.as()
		p.Outside = true
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(seen[i], 24).Masked())
		if i == 1 {
			p.Mappings = []datapath.Mapping{mapping("192.168.10.0/24", "192.168.20.0/24")}
		}
		know(t, s.hub, p)
	}
	send := func(from *node, p []byte) {
		b := from.NewBatch(len(p))
		copy(b.Next(len(p)), p)
		from.Send(packetDestination(p), b)
	}
	get := func(at *node) []byte {
		t.Helper()
		var p []byte
		eventually(t, "a packet", func() bool {
			select {
			case p = <-at.got:
				return true
			default:
				return false
			}
		})
		n, _ := packetSource(p)
		return p[:n]
	}
	same := func(got, want []byte) {
		t.Helper()
		want = bytes.Clone(want)
		if len(got) == len(want) { // a hop less
			want[8] = got[8]
			copy(want[10:12], got[10:12])
		}
		if !bytes.Equal(got, want) || sums.Checksum(got[:int(got[0]&15)*4], 0) != 0xffff {
			t.Fatalf("got\n%x, want\n%x", got, want)
		}
	}
	for seed := range uint64(50) {
		for i, o := range s.outside {
			d := func() dealer { return deal(seed) }
			send(m, d().packet(m.addr, seen[i], seen[i], m.addr))
			same(get(o), d().packet(m.addr, host, host, m.addr))
			send(o, d().packet(host, m.addr, m.addr, host))
			same(get(m), d().packet(seen[i], m.addr, m.addr, seen[i]))
			// The hub's own TCP/IP dials what is seen, too.
			send(s.hub, d().packet(s.hub.addr, seen[i], seen[i], s.hub.addr))
			same(get(o), d().packet(s.hub.addr, host, host, s.hub.addr))
			send(o, d().packet(host, s.hub.addr, s.hub.addr, host))
			same(get(s.hub), d().packet(seen[i], s.hub.addr, s.hub.addr, seen[i]))
		}
	}
	send(s.outside[1], deal(1).plain(seen[1], m.addr))
	s.dropped(t, "ForeignSource", 1)

	plain := s.outside[1].as() // and without its mapping it has no such addresses
	plain.Outside = true
	know(t, s.hub, plain)
	send(m, deal(1).plain(m.addr, seen[1]))
	s.dropped(t, "NoPeer", 1)
	send(s.outside[1], deal(1).plain(host, m.addr))
	s.dropped(t, "ForeignSource", 2)
	s.outside[1].sendTo(m.addr, "still there")
	m.expect(t, "still there")
}

// A change of mappings counts at once, and a delta that maps what cannot be mapped changes nothing.
func TestMappingsChange(t *testing.T) {
	a, b := pair(t)
	with := func(allowed string, mappings ...datapath.Mapping) datapath.Peer {
		p := b.as()
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(allowed))
		p.Mappings = mappings
		return p
	}
	mapped := with("192.168.20.0/24", mapping("192.168.10.0/24", "192.168.20.0/24"))
	know(t, a, mapped)
	all := a.as()
	know(t, b, all)
	send := func(to string) {
		p := deal(1).plain(a.addr, netip.MustParseAddr(to))
		o := a.NewBatch(len(p))
		copy(o.Next(len(p)), p)
		a.Send(netip.MustParseAddr(to), o)
	}
	arrives := func(to string) {
		t.Helper()
		p := <-b.got
		if got := packetDestination(p); got != netip.MustParseAddr(to) {
			t.Fatalf("it went to %s, want %s", got, to)
		}
	}
	send("192.168.20.7")
	arrives("192.168.10.7")
	know(t, a, with("192.168.20.0/24", mapping("192.168.30.0/24", "192.168.20.0/24")))
	send("192.168.20.7")
	arrives("192.168.30.7")
	for why, bad := range map[string]datapath.Peer{
		"not seen":     with("192.168.21.0/24", mapping("192.168.10.0/24", "192.168.20.0/24")),
		"own address":  with("192.168.20.0/24", mapping("10.9.0.0/24", "192.168.20.0/24")),
		"lengths":      with("192.168.20.0/24", mapping("192.168.10.0/25", "192.168.20.0/24")),
		"loopback":     with("192.168.20.0/24", mapping("127.0.0.0/24", "192.168.20.0/24")),
		"to itself":    with("192.168.20.0/24", mapping("192.168.20.0/24", "192.168.20.0/24")),
		"two as one":   with("192.168.20.0/24", mapping("192.168.10.0/24", "192.168.20.0/24"), mapping("192.168.11.0/24", "192.168.20.0/24")),
		"overlapping":  with("0.0.0.0/0", mapping("192.168.10.0/24", "192.168.20.0/24")),
		"other family": with("192.168.20.0/24", mapping("fd00::/24", "192.168.20.0/24")),
	} {
		if err := a.UpdatePeers([]datapath.Peer{bad}, nil); err == nil {
			t.Errorf("%s: %v was taken", why, bad.Mappings)
		}
	}
	send("192.168.20.7")
	arrives("192.168.30.7")
	know(t, a, with("192.168.20.0/24"))
	send("192.168.20.7")
	arrives("192.168.20.7")
}

func BenchmarkMapping(b *testing.B) {
	m := newMapper(mappedSite)
	for _, peer := range []string{"192.168.10.7", "fd10:0:0:4200::7"} {
		b.Run(fmt.Sprint("inbound/", peer), func(b *testing.B) {
			dst := netip.MustParseAddr("10.77.0.1")
			src := netip.MustParseAddr(peer)
			if src.Is6() {
				dst = netip.MustParseAddr("fd77::1")
			}
			was := deal(2).plain(src, dst)
			is := bytes.Clone(was)
			b.ReportAllocs()
			for b.Loop() {
				copy(is, was)
				m.inbound(is)
			}
		})
	}
}
