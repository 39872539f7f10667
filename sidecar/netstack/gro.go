package netstack

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Generic receive offload: segments of one TCP stream that follow each other within a batch become one large segment. gVisor
// then runs its receive path, wakes the reader and acknowledges once instead of 45 times.
//
// Segments are joined only if they differ in nothing but sequence number, length and PSH, as a router that had cut them from
// one super-segment would make them: what is joined is exactly what the sender's TCP had meant.

const (
	mergeFlows  = 8     // flows of a batch that may be open at once
	mergeMax    = 65535 // an IP packet's size
	ackOnly     = byte(header.TCPFlagAck)
	push        = byte(header.TCPFlagPsh)
	protocolTCP = byte(header.TCPProtocolNumber)
	fragment    = 0x3fff // of an IPv4 header: more-fragments and offset
)

// run is a segment and those that follow on it. The slices are the engine's and live until deliver returns.
type run struct {
	head  []byte // the first packet, whole
	l3    int
	hdr   int // IP and TCP header
	size  int // of the joined packet
	mss   int // payload of the first
	seq   uint32
	flags byte
	parts [][]byte // head and the payloads after it
}

// merger joins one batch.
type merger struct {
	out    stack.NetworkDispatcher
	runs   [mergeFlows]run
	n      int
	merged uint64
}

// tcpShape returns the header lengths of an unfragmented TCP packet with payload and nothing unusual about it.
func tcpShape(b []byte) (l3, hdr int, ok bool) {
	if b[0]>>4 == 4 {
		if b[0] != 0x45 || b[9] != protocolTCP || binary.BigEndian.Uint16(b[6:])&fragment != 0 {
			return 0, 0, false
		}
		l3 = ipv4Header
	} else {
		if b[6] != protocolTCP {
			return 0, 0, false
		}
		l3 = ipv6Header
	}
	if len(b) < l3+tcpHeader {
		return 0, 0, false
	}
	hdr = l3 + int(b[l3+12]>>4)*4
	return l3, hdr, hdr >= l3+tcpHeader && hdr < len(b)
}

// add takes the next packet of the batch: it joins its run, begins one, or is delivered after its run.
func (m *merger) add(b []byte) {
	l3, hdr, ok := tcpShape(b)
	if !ok {
		if len(b) > 0 && m.n > 0 && sameFlowPossible(b) {
			m.deliverFlow(b)
		}
		inject(m.out, len(b), b)
		return
	}
	flags := b[l3+13]
	for i := range m.runs[:m.n] {
		r := &m.runs[i]
		if !r.sameFlow(b, l3) {
			continue
		}
		if r.joins(b, hdr, flags) {
			r.join(b, hdr, flags)
			m.merged++
			return
		}
		m.emit(i)
		break
	}
	if flags&^push != ackOnly {
		inject(m.out, len(b), b)
		return
	}
	if m.n == mergeFlows {
		m.emit(0)
	}
	r := &m.runs[m.n]
	m.n++
	*r = run{
		head: b, l3: l3, hdr: hdr, size: len(b), mss: len(b) - hdr, flags: flags,
		seq:   binary.BigEndian.Uint32(b[l3+4:]) + uint32(len(b)-hdr),
		parts: append(r.parts[:0], b),
	}
}

// sameFlowPossible says whether a packet that cannot be joined may belong to a stream that can: TCP without payload. Its
// order among the stream's segments must stay.
func sameFlowPossible(b []byte) bool {
	if b[0]>>4 == 4 {
		return b[9] == protocolTCP && b[0] == 0x45 && len(b) >= ipv4Header+tcpHeader
	}
	return b[6] == protocolTCP && len(b) >= ipv6Header+tcpHeader
}

// deliverFlow delivers the run of the packet's stream, if there is one.
func (m *merger) deliverFlow(b []byte) {
	l3 := ipv6Header
	if b[0]>>4 == 4 {
		l3 = ipv4Header
	}
	for i := range m.runs[:m.n] {
		if m.runs[i].sameFlow(b, l3) {
			m.emit(i)
			return
		}
	}
}

// sameFlow compares addresses and ports.
func (r *run) sameFlow(b []byte, l3 int) bool {
	if r.l3 != l3 || !bytes.Equal(r.head[l3:l3+4], b[l3:l3+4]) {
		return false
	}
	if l3 == ipv4Header {
		return bytes.Equal(r.head[12:20], b[12:20])
	}
	return bytes.Equal(r.head[8:40], b[8:40])
}

// joins says whether b continues the run and differs from it in nothing that TCP could read.
func (r *run) joins(b []byte, hdr int, flags byte) bool {
	n, h, l3 := len(b)-hdr, r.head, r.l3
	switch {
	case hdr != r.hdr, n > r.mss, r.size+n > mergeMax:
		return false
	case (r.size-r.hdr)%r.mss != 0, r.flags&push != 0: // a short segment or a pushed one was the last of its burst
		return false
	case flags&^push != ackOnly, binary.BigEndian.Uint32(b[l3+4:]) != r.seq:
		return false
	case !bytes.Equal(h[l3+8:l3+13], b[l3+8:l3+13]): // acknowledgement, header length
		return false
	case !bytes.Equal(h[l3+14:l3+16], b[l3+14:l3+16]): // window
		return false
	case !bytes.Equal(h[l3+18:hdr], b[l3+18:hdr]): // urgent pointer, options
		return false
	case l3 == ipv4Header:
		return h[1] == b[1] && h[6] == b[6] && h[8] == b[8] // type of service, don't-fragment, time to live
	default:
		return bytes.Equal(h[:4], b[:4]) && h[7] == b[7] // traffic class and flow label, hop limit
	}
}

func (r *run) join(b []byte, hdr int, flags byte) {
	r.parts = append(r.parts, b[hdr:])
	r.size += len(b) - hdr
	r.seq += uint32(len(b) - hdr)
	r.flags |= flags
}

// emit delivers run i and closes the gap.
func (m *merger) emit(i int) {
	r := &m.runs[i]
	if len(r.parts) > 1 {
		// The engine's buffer is ours until deliver returns. The IP checksum is left wrong: nobody looks (see Capabilities).
		if r.l3 == ipv4Header {
			binary.BigEndian.PutUint16(r.head[2:], uint16(r.size))
		} else {
			binary.BigEndian.PutUint16(r.head[4:], uint16(r.size-ipv6Header))
		}
		r.head[r.l3+13] = r.flags
	}
	inject(m.out, r.size, r.parts...)
	spare := r.parts
	clear(spare)
	copy(m.runs[i:m.n], m.runs[i+1:m.n])
	m.n--
	m.runs[m.n] = run{parts: spare[:0]}
}

// flush delivers what is open and returns how many packets were joined to another.
func (m *merger) flush() uint64 {
	for m.n > 0 {
		m.emit(0)
	}
	n := m.merged
	m.merged, m.out = 0, nil
	return n
}
