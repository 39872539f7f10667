package netstack

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Closed receive windows.
//
// A window is advertised in units. What is left of one that is less than a unit is advertised as nothing, although the peer was
// allowed it before and may send it (RFC 7323, section 2.4). From then on gVisor takes every segment of the peer's for one outside of
// the window, and with it what that acknowledges. If the application reads only what it could answer, as a proxy does, then neither
// direction ever goes on. RFC 9293 (3.10.7.4) has acknowledgements heard while the window is closed. So those that come from the rest of
// a window of ours are moved back to where gVisor hears them; and those that we send from the rest of a peer's, whose stack may be gVisor's
// too, leave from where its window has closed, which every stack hears.

// windowUnit is what a window of ours is advertised in: the least power of two by which receiveMax fits in 16 bits.
const windowUnit = 256

// mostUnit is what a peer's may be advertised in at most (RFC 7323, section 2.3).
const mostUnit = 1 << 14

// windows are those that are closed.
type windows struct {
	seed         maphash.Seed
	ours, theirs closedWindows
}

func newWindows() *windows { return &windows{seed: maphash.MakeSeed()} }

// closedWindows are the streams of which one side's window is closed, and from which sequence number on. Two that hash alike displace each
// other, and the one that lost its place is back with its next segment.
type closedWindows struct {
	open  atomic.Int32 // places that are taken
	place [256]atomic.Uint64
}

// streamID is a hash of a stream's remote address and its ports, never zero.
type streamID uint32

func (w *windows) stream(remote, local, far []byte) streamID {
	var h maphash.Hash
	h.SetSeed(w.seed)
	_, _ = h.Write(remote)
	_, _ = h.Write(local)
	_, _ = h.Write(far)
	return streamID(h.Sum64()) | 1
}

func (c *closedWindows) at(id streamID) *atomic.Uint64 { return &c.place[id>>1%streamID(len(c.place))] }

// set notes whether the stream's window is closed.
func (c *closedWindows) set(id streamID, closed bool, edge uint32) {
	place := c.at(id)
	old := place.Load()
	same := streamID(old>>32) == id
	switch {
	case closed && same && int32(edge-uint32(old)) < 0: // an older segment, overtaken
	case closed:
		if place.Swap(uint64(id)<<32|uint64(edge)) == 0 {
			c.open.Add(1)
		}
	case same && place.CompareAndSwap(old, 0):
		c.open.Add(-1)
	}
}

// edge is where the stream's window is closed, if it is.
func (c *closedWindows) edge(id streamID) (uint32, bool) {
	v := c.at(id).Load()
	return uint32(v), streamID(v>>32) == id
}

// shut says whether a segment has its sender's window closed. A reset's window says nothing.
func shut(tcp []byte) bool {
	return tcp[14]|tcp[15] == 0 && header.TCPFlags(tcp[13])&(header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagAck
}

// note takes in a segment by which one side closes its window or opens it. A reset ends the stream, and with it what is noted of the other side too.
func note(tcp []byte, id streamID, closed bool, by, other *closedWindows) {
	by.set(id, closed, binary.BigEndian.Uint32(tcp[8:]))
	if header.TCPFlags(tcp[13])&header.TCPFlagRst != 0 {
		other.set(id, false, 0)
	}
}

// leaves takes in the headers of a segment of ours and returns the sequence number that it leaves with.
func (w *windows) leaves(ip, tcp []byte, payload int) uint32 {
	seq, closed := binary.BigEndian.Uint32(tcp[4:]), shut(tcp)
	if !closed && w.ours.open.Load() == 0 && w.theirs.open.Load() == 0 {
		return seq
	}
	remote := ip[16:20]
	if ip[0]>>4 == 6 {
		remote = ip[24:40]
	}
	id := w.stream(remote, tcp[:2], tcp[2:4])
	note(tcp, id, closed, &w.ours, &w.theirs)
	if payload == 0 && tcp[13]&^push == ackOnly {
		if edge, ok := w.theirs.edge(id); ok && seq-edge < mostUnit {
			return edge
		}
	}
	return seq
}

// arrives takes in a packet of a peer's. What is only an acknowledgement from the rest of a closed window of ours is moved back.
func (w *windows) arrives(b []byte) {
	if !sameFlowPossible(b) || b[0]>>4 == 4 && binary.BigEndian.Uint16(b[6:])&fragment != 0 {
		return
	}
	l3, remote := ipv4Header, b[12:16]
	if b[0]>>4 == 6 {
		l3, remote = ipv6Header, b[8:24]
	}
	tcp := b[l3:]
	closed := shut(tcp)
	if !closed && w.ours.open.Load() == 0 && w.theirs.open.Load() == 0 {
		return
	}
	id := w.stream(remote, tcp[2:4], tcp[:2])
	note(tcp, id, closed, &w.theirs, &w.ours)
	if tcp[13]&^push != ackOnly || len(tcp) != int(tcp[12]>>4)*4 {
		return
	}
	if edge, ok := w.ours.edge(id); ok && binary.BigEndian.Uint32(tcp[4:])-edge < windowUnit {
		binary.BigEndian.PutUint32(tcp[4:], edge)
	}
}
