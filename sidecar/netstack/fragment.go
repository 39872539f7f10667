package netstack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/tailscale/wireguard-go/tun"
)

// What is no TCP segment and longer than the path to a peer takes leaves in fragments: gVisor knows of one MTU alone, the interface's.

const (
	fragmentHeader = 8 // IPv6's
	protocolNext   = 44
	moreFragments4 = 0x2000
	moreFragments6 = 1
)

// fragmenter cuts one packet into fragments, further where it is one.
type fragmenter struct {
	header  []byte // of each, up to the payload; of IPv6 with a fragment header
	payload []byte
	offset  int // of the payload in the whole packet
	more    bool
}

func newFragmenter(b []byte) (f fragmenter, ok bool) {
	if b[0]>>4 == 4 {
		n := int(b[0]&15) * 4
		field := binary.BigEndian.Uint16(b[6:])
		f = fragmenter{b[:n:n], b[n:], int(field&0x1fff) * 8, field&moreFragments4 != 0}
		if f.offset == 0 && !f.more {
			binary.BigEndian.PutUint16(b[4:], uint16(rand.Uint32())) // what was not to be cut has no number
		}
		return f, n == ipv4Header // options are not for every fragment
	}
	if b[6] == protocolNext {
		if len(b) < ipv6Header+fragmentHeader {
			return f, false
		}
		n := ipv6Header + fragmentHeader
		field := binary.BigEndian.Uint16(b[ipv6Header+2:])
		return fragmenter{b[:n:n], b[n:], int(field &^ 7), field&moreFragments6 != 0}, true
	}
	h := make([]byte, ipv6Header+fragmentHeader)
	copy(h, b[:ipv6Header])
	h[6], h[ipv6Header] = protocolNext, b[6]
	binary.BigEndian.PutUint32(h[ipv6Header+4:], rand.Uint32())
	return fragmenter{header: h, payload: b[ipv6Header:]}, true
}

// next writes the next fragment, of at most so many bytes, into what room returns for it; false if there is no room.
func (f *fragmenter) next(mtu int, room func(int) []byte) bool {
	n := len(f.payload)
	last := len(f.header)+n <= mtu
	if !last {
		n = (mtu - len(f.header)) &^ 7
	}
	out := room(len(f.header) + n)
	if out == nil {
		return false
	}
	copy(out, f.header)
	copy(out[len(f.header):], f.payload)
	more := f.more || !last
	if out[0]>>4 == 4 {
		binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
		field := uint16(f.offset / 8)
		if more {
			field |= moreFragments4
		}
		binary.BigEndian.PutUint16(out[6:], field)
		out[10], out[11] = 0, 0
		binary.BigEndian.PutUint16(out[10:], ^tun.Checksum(out[:ipv4Header], 0))
	} else {
		binary.BigEndian.PutUint16(out[4:], uint16(len(out)-ipv6Header))
		field := uint16(f.offset)
		if more {
			field |= moreFragments6
		}
		binary.BigEndian.PutUint16(out[ipv6Header+2:], field)
	}
	f.payload, f.offset = f.payload[n:], f.offset+n
	return true
}

// sendFragments sends a packet in fragments of at most so many bytes each.
func (l *link) sendFragments(out Outside, to netip.Addr, packet []byte, mtu int) {
	f, ok := newFragmenter(packet)
	if !ok || mtu < len(f.header)+8 {
		l.s.count.txTooLong.Add(1)
		return
	}
	for len(f.payload) > 0 {
		b := out.NewBatch(len(packet) + len(f.header))
		size := 0
		room := func(n int) []byte { size += n; return b.Next(n) }
		for len(f.payload) > 0 && f.next(mtu, room) {
		}
		if b.Len() == 0 {
			l.s.count.txTooLong.Add(1)
			b.Free()
			return
		}
		l.s.count.txPackets.Add(uint64(b.Len()))
		l.s.count.txBytes.Add(uint64(size))
		out.Send(to, b)
	}
}
