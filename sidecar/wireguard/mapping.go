package wireguard

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
)

// mapper rewrites the packets of one peer whose hosts are seen under other addresses than they have (datapath.Mapping). It never
// changes. What it does not know it refuses, so that while addresses change, no packet goes to a host that it was not meant for.
type mapper struct {
	out way // to the peer, before encryption: destinations from seen to real
	in  way // from the peer, after decryption and before anybody asks for the owner of the source: from real to seen
}

// way is one direction of a mapper.
type way struct {
	// swaps are of disjoint ranges. What is not mapped swaps with itself.
	v4, v6 []swap
	// destination says which address is rewritten. In a packet that an ICMP error quotes, which went the other way, it is the other one.
	destination bool
}

// swap replaces the network part of an address.
type swap struct {
	mask, from, to words
	// gain is what it adds to a checksum's sum (RFC 1624). It is the same for all hosts, since their part stays. Zero: nothing changes.
	gain uint16
}

// words are an address, in the byte order of the network; an IPv4 one fills the first half of the first.
type words [2]uint64

// remap takes what a change says of the addresses. Who had a mapper keeps one: what is under way to a mapped address is then refused, and
// not sent as it is.
func (p *peer) remap(c delta.Change, is datapath.Peer) {
	if len(is.Mappings) > 0 || p.mapper.Load() != nil && !c.Remove {
		p.mapper.Store(newMapper(is))
	}
}

func newMapper(p datapath.Peer) *mapper {
	m := &mapper{out: way{destination: true}}
	for _, ip := range p.AllowedIPs {
		if !slices.ContainsFunc(p.Mappings, func(x datapath.Mapping) bool { return x.Seen == ip }) {
			m.out.add(ip, ip)
			m.in.add(ip, ip)
		}
	}
	for _, x := range p.Mappings {
		m.out.add(x.Seen, x.Real)
		m.in.add(x.Real, x.Seen)
	}
	return m
}

func (w *way) add(from, to netip.Prefix) {
	s := swap{mask: maskOf(from), from: wordsOf(from.Addr()), to: wordsOf(to.Addr())}
	if from != to {
		for i := range s.from {
			for shift := 0; shift < 64; shift += 16 {
				s.gain = plus(s.gain, plus(uint16(s.to[i]>>shift), ^uint16(s.from[i]>>shift)))
			}
		}
	}
	if from.Addr().Is4() {
		w.v4 = append(w.v4, s)
	} else {
		w.v6 = append(w.v6, s)
	}
}

func wordsOf(a netip.Addr) words {
	var b [16]byte
	copy(b[:], a.AsSlice())
	return words{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func maskOf(p netip.Prefix) words {
	n := p.Bits()
	if n <= 64 {
		return words{^uint64(0) << (64 - n), 0}
	}
	return words{^uint64(0), ^uint64(0) << (128 - n)}
}

// outbound rewrites the packets of a batch, which are not encrypted yet; false if one of them goes to an address that is not the peer's.
func (m *mapper) outbound(b *Batch) bool {
	for _, p := range b.packets {
		p = p[HeaderSize:]
		if len(p) == 0 {
			continue // a keepalive
		}
		n, _ := packetSource(p)
		if n == 0 || !m.out.rewrite(p[:n]) {
			return false
		}
	}
	return true
}

// inbound rewrites a packet that packetSource took for one, and returns its source as it is now; false if it comes from an address that
// is not the peer's, as those are which others see: who uses them is not behind this peer.
func (m *mapper) inbound(b []byte) (src netip.Addr, ok bool) {
	if !m.in.rewrite(b) {
		return src, false
	}
	_, src = packetSource(b)
	return src, true
}

// rewrite rewrites a whole IP packet, checksums included; false if it has an address that the way does not know. A checksum that was right
// stays right, and one that was wrong stays wrong.
func (w *way) rewrite(b []byte) bool {
	gain, ok := w.swap(b, w.destination)
	if !ok {
		return false
	}
	protocol, at := transport(b)
	if gain != 0 {
		amend(b, protocol, at, gain)
	}
	if isError(b, protocol, at) {
		w.rewriteQuoted(b[at:], protocol)
	}
	return true
}

// rewriteQuoted rewrites the packet that an ICMP error quotes, as much as there is of it: a host looks there for the connection that the
// error is about.
func (w *way) rewriteQuoted(icmp []byte, protocol byte) {
	const header = 8
	quoted := icmp[header:]
	v4 := protocol == protocolICMP
	if len(quoted) < 20 || v4 != (quoted[0]>>4 == 4) || !v4 && (len(quoted) < 40 || quoted[0]>>4 != 6) {
		return
	}
	gain, ok := w.swap(quoted, !w.destination)
	if !ok || gain == 0 {
		return
	}
	// What the address gains, each checksum over it loses: that of an IPv4 header always, that of the payload where it is quoted.
	change := uint16(0)
	if !v4 {
		change = gain
	}
	if p, at := transport(quoted); amend(quoted, p, at, gain) {
		change = plus(change, ^gain)
	}
	if change != 0 {
		correct(icmp[2:], change)
	}
}

// swap replaces one of the addresses of a packet, which has a whole IP header, and mends an IPv4 header's checksum. It returns what a
// checksum that covers the address gains, and whether it knows the address.
func (w *way) swap(b []byte, destination bool) (gain uint16, known bool) {
	if b[0]>>4 == 4 {
		at := b[12:16]
		if destination {
			at = b[16:20]
		}
		a := words{uint64(binary.BigEndian.Uint32(at)) << 32}
		s := find(w.v4, a)
		if s == nil {
			return 0, false
		}
		if s.gain != 0 {
			binary.BigEndian.PutUint32(at, uint32((a[0]&^s.mask[0]|s.to[0])>>32))
			correct(b[10:], s.gain)
		}
		return s.gain, true
	}
	at := b[8:24]
	if destination {
		at = b[24:40]
	}
	a := words{binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:])}
	s := find(w.v6, a)
	if s == nil {
		return 0, false
	}
	if s.gain != 0 {
		binary.BigEndian.PutUint64(at, a[0]&^s.mask[0]|s.to[0])
		binary.BigEndian.PutUint64(at[8:], a[1]&^s.mask[1]|s.to[1])
	}
	return s.gain, true
}

func find(swaps []swap, a words) *swap {
	for i := range swaps {
		if s := &swaps[i]; a[0]&s.mask[0] == s.from[0] && a[1]&s.mask[1] == s.from[1] {
			return s
		}
	}
	return nil
}

// plus adds as checksums do, with the carry at the other end.
func plus(a, b uint16) uint16 {
	sum := uint32(a) + uint32(b)
	return uint16(sum + sum>>16)
}

// correct makes a checksum right again after what it covers has gained so much.
func correct(sum []byte, gain uint16) {
	binary.BigEndian.PutUint16(sum, ^plus(^binary.BigEndian.Uint16(sum), gain))
}
