package netstack

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// verdict is what becomes of an inbound packet.
type verdict int

const (
	pass verdict = iota
	malformed
	notForUs
	badSource
)

// inspect checks the one thing that WireGuard does not: AllowedIPs vouches for the source, nobody for the destination. It
// returns the packet without what may follow its IP length.
func inspect(b []byte, own *addressSet) ([]byte, verdict) {
	var src, dst netip.Addr
	switch {
	case len(b) >= ipv4Header && b[0]>>4 == 4:
		total, ihl := int(binary.BigEndian.Uint16(b[2:])), int(b[0]&15)*4
		if ihl < ipv4Header || total < ihl || total > len(b) {
			return nil, malformed
		}
		b = b[:total]
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		total := int(binary.BigEndian.Uint16(b[4:])) + ipv6Header
		if total > len(b) {
			return nil, malformed
		}
		b = b[:total]
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return nil, malformed
	}
	if !own.has(dst) {
		return nil, notForUs
	}
	// A peer may be allowed every address (an egress gateway is), so the few that no peer can have are refused here.
	if !unicast(src) || own.has(src) {
		return nil, badSource
	}
	return b, pass
}

var mergers = sync.Pool{New: func() any { return new(merger) }}

// deliver takes a batch from the engine. It may be called concurrently.
func (l *link) deliver(bufs [][]byte, offset int) {
	d := l.dispatcher.Load()
	if d == nil {
		return
	}
	own, c := l.s.own.Load(), &l.s.count
	m := mergers.Get().(*merger)
	defer mergers.Put(m)
	m.out = *d
	var packets, bytes uint64
	for _, buf := range bufs {
		if len(buf) < offset {
			c.malformed.Add(1)
			continue
		}
		b, v := inspect(buf[offset:], own)
		switch v {
		case malformed:
			c.malformed.Add(1)
			continue
		case notForUs:
			c.destination.Add(1)
			continue
		case badSource:
			c.source.Add(1)
			continue
		}
		packets++
		bytes += uint64(len(b))
		l.windows.arrives(b)
		m.add(b)
	}
	c.rxMerged.Add(m.flush())
	c.rxPackets.Add(packets)
	c.rxBytes.Add(bytes)
}

// inject hands one packet of size bytes to gVisor, made of the parts; the first begins with the IP header.
func inject(out stack.NetworkDispatcher, size int, parts ...[]byte) {
	var proto tcpip.NetworkProtocolNumber = ipv6.ProtocolNumber
	if parts[0][0]>>4 == 4 {
		proto = ipv4.ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: gather(size, parts)})
	out.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}

// gather copies the parts, of size bytes together, into views that waste little: what nobody reads stays in them.
func gather(size int, parts [][]byte) (b buffer.Buffer) {
	room := viewSize(size)
	v := buffer.NewView(room)
	for _, p := range parts {
		for len(p) > room {
			size -= v.Size() + room
			_, _ = v.Write(p[:room]) // grows if need be, never fails
			_ = b.Append(v)          // never fails
			p, room = p[room:], viewSize(size)
			v = buffer.NewView(room)
		}
		_, _ = v.Write(p)
		room -= len(p)
	}
	_ = b.Append(v)
	return b
}

// viewSize is the size of the first of the views for n bytes. The memory of one is a power of two: where a quarter of that or more would be
// empty it is half, and full, and another follows. What is little has one in any case.
func viewSize(n int) int {
	const little = 4 << 10
	if whole := 1 << bits.Len(uint(n-1)); n > little && whole-n > whole/4 {
		return whole / 2
	}
	return n
}

// GroupBy sets which addresses are one peer's; see datapath.Grouper.
func (s *Stack) GroupBy(peerOf func(netip.Addr) netip.Addr) {
	s.tcpSlots.GroupBy(peerOf)
	s.udpFlows.slots.GroupBy(peerOf)
}
