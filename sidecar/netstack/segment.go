package netstack

import (
	"encoding/binary"
	"sync"

	"github.com/tailscale/wireguard-go/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tenantwire/tenantwire/sidecar/wireguard"
)

// cutter turns one packet of gVisor's into one or more packets on the wire, resuming where a batch was full.
type cutter struct {
	view *buffer.View // where the payload goes on
	off  int          // and at which byte of it
	left int          // payload still to be cut
	done bool         // nothing is left, the headers of a segment without payload neither

	segment bool // TCP whose checksum is ours to write; else the packet goes out as it is
	mss     int  // payload of a full segment
	seq     uint32
	id      uint16
	l3      int // length of the IP header
	hdr     []byte
	scratch [ipv6Header + header.TCPHeaderMaximumSize]byte
}

var cutters = sync.Pool{New: func() any { return new(cutter) }}

func putCutter(c *cutter) {
	c.view, c.hdr = nil, nil
	cutters.Put(c)
}

// segmentSize is the payload of a full segment: what TCP agreed on, or less if the MTU has shrunk since.
func segmentSize(pkt *stack.PacketBuffer, hdr, mtu int) int {
	room := max(1, mtu-hdr)
	if mss := int(pkt.GSOOptions.MSS); mss > 0 {
		return min(mss, room)
	}
	return room
}

// start begins with pkt, which stays the caller's and must live until the last emit.
func (c *cutter) start(pkt *stack.PacketBuffer, mtu int) {
	net, trans := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	hdr := len(net) + len(trans)
	*c = cutter{left: pkt.Size()}
	c.segment = pkt.GSOOptions.Type != stack.GSONone && len(trans) >= tcpHeader && len(net) >= ipv4Header && hdr <= len(c.scratch)
	views, skip := pkt.AsViewList()
	if c.segment {
		c.l3 = len(net)
		c.hdr = c.scratch[:hdr]
		copy(c.hdr, net)
		copy(c.hdr[c.l3:], trans)
		c.left -= hdr
		skip += hdr
		c.mss = segmentSize(pkt, hdr, mtu)
		c.seq = binary.BigEndian.Uint32(c.hdr[c.l3+4:])
		c.id = binary.BigEndian.Uint16(c.hdr[4:])
	}
	for c.view = views.Front(); c.view != nil && skip >= c.view.Size(); c.view = c.view.Next() {
		skip -= c.view.Size()
	}
	c.off = skip
}

// room is the size of everything that is left, headers included.
func (c *cutter) room() int {
	if !c.segment {
		return c.left
	}
	return c.left + max(1, (c.left+c.mss-1)/c.mss)*len(c.hdr)
}

// emit writes packets until everything is written or the batch is full, and returns their size.
func (c *cutter) emit(b *wireguard.Batch) (size int) {
	for !c.done {
		n := c.left
		if c.segment {
			n = min(n, c.mss)
		}
		out := b.Next(len(c.hdr) + n)
		if out == nil {
			return size
		}
		size += len(out)
		c.copyPayload(out[len(c.hdr):])
		c.done = c.left == 0
		if c.segment {
			c.writeHeaders(out, c.done)
		}
	}
	return size
}

// copyPayload fills out with the next payload.
func (c *cutter) copyPayload(out []byte) {
	c.left -= len(out)
	for len(out) > 0 && c.view != nil {
		n := copy(out, c.view.AsSlice()[c.off:])
		out = out[n:]
		c.off += n
		if c.off == c.view.Size() {
			c.view, c.off = c.view.Next(), 0
		}
	}
}

// writeHeaders writes the headers of one segment before its payload and moves on to the next.
func (c *cutter) writeHeaders(out []byte, last bool) {
	copy(out, c.hdr)
	ip, tcp := out[:c.l3], out[c.l3:]
	var src, dst []byte
	if ip[0]>>4 == 4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(out)))
		binary.BigEndian.PutUint16(ip[4:], c.id)
		c.id++
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^tun.Checksum(ip, 0))
		src, dst = ip[12:16], ip[16:20]
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(out)-ipv6Header))
		src, dst = ip[8:24], ip[24:40]
	}
	binary.BigEndian.PutUint32(tcp[4:], c.seq)
	if !last {
		const finPush = byte(header.TCPFlagFin | header.TCPFlagPsh)
		tcp[13] &^= finPush
	}
	tcp[16], tcp[17] = 0, 0
	pseudo := tun.PseudoHeaderChecksum(uint8(header.TCPProtocolNumber), src, dst, uint16(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], ^tun.Checksum(tcp, pseudo))
	c.seq += uint32(len(out) - len(c.hdr))
}
