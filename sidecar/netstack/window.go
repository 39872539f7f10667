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
// direction ever goes on. RFC 9293 (3.10.7.4) has acknowledgements heard while the window is closed, so those that come from that rest
// are moved back to where gVisor hears them.

// windowUnit is what a window is advertised in: the least power of two by which receiveMax fits in 16 bits.
const windowUnit = 256

// closedWindows are the streams whose window is closed, by the hash of their remote address and their ports. Two in one place displace each other,
// and the one that lost it is back with its next segment.
type closedWindows struct {
	seed  maphash.Seed
	open  atomic.Int32 // places that are taken
	place [256]atomic.Uint64
}

func newClosedWindows() *closedWindows { return &closedWindows{seed: maphash.MakeSeed()} }

// flow returns the place of a stream and what tells it from others there, never zero. The ports are at b[l3:], local and remote.
func (w *closedWindows) flow(remote []byte, local, far []byte) (*atomic.Uint64, uint64) {
	var h maphash.Hash
	h.SetSeed(w.seed)
	_, _ = h.Write(remote)
	_, _ = h.Write(local)
	_, _ = h.Write(far)
	sum := h.Sum64()
	return &w.place[sum%uint64(len(w.place))], sum>>32<<32 | 1<<63
}

// leaves looks at the headers of a segment of ours: it closes the stream's window, or opens it. A reset, whose window says nothing, ends
// the stream.
func (w *closedWindows) leaves(ip, tcp []byte) {
	closed := tcp[14]|tcp[15] == 0 && header.TCPFlags(tcp[13])&(header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagAck
	if !closed && w.open.Load() == 0 {
		return
	}
	remote := ip[16:20]
	if ip[0]>>4 == 6 {
		remote = ip[24:40]
	}
	place, tag := w.flow(remote, tcp[:2], tcp[2:4])
	old := place.Load()
	switch {
	case closed:
		if place.Swap(tag|uint64(binary.BigEndian.Uint32(tcp[8:]))) == 0 {
			w.open.Add(1)
		}
	case old>>32 == tag>>32:
		if place.CompareAndSwap(old, 0) {
			w.open.Add(-1)
		}
	}
}

// arrives moves back what is only an acknowledgement from the rest of a closed window.
func (w *closedWindows) arrives(b []byte) {
	if w.open.Load() == 0 || !sameFlowPossible(b) {
		return
	}
	l3, remote := ipv4Header, b[12:16]
	if b[0]>>4 == 6 {
		l3, remote = ipv6Header, b[8:24]
	}
	tcp := b[l3:]
	if tcp[13]&^push != ackOnly || len(tcp) != int(tcp[12]>>4)*4 {
		return
	}
	place, tag := w.flow(remote, tcp[2:4], tcp[:2])
	old := place.Load()
	if old>>32 != tag>>32 {
		return
	}
	if next := uint32(old); binary.BigEndian.Uint32(tcp[4:])-next < windowUnit {
		binary.BigEndian.PutUint32(tcp[4:], next)
	}
}
