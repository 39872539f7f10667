package wireguard

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/pathmtu"
)

func isICMP(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	if b[0]>>4 == 4 {
		return b[9] == protocolICMP
	}
	return b[6] == protocolICMP6
}

// writeEcho fills b with an echo request.
func writeEcho(b []byte, from, to netip.Addr, id, number uint16, token uint64) {
	clear(b)
	at, kind := 20, byte(8)
	if to.Is6() {
		at, kind = 40, 128
	}
	icmp := b[at:]
	icmp[0] = kind
	binary.BigEndian.PutUint16(icmp[4:], id)
	binary.BigEndian.PutUint16(icmp[6:], number)
	binary.BigEndian.PutUint64(icmp[8:], token)
	copy(icmp[16:], pathmtu.Mark)
	sealICMP(b, from, to)
}

// Answers to probes cost system calls each, while nobody else sends and the reader waits. So there are at most 50 a second to one peer,
// and 20 at once, and to all of them ten times as many. More are the stack's to answer.
const (
	answerCost     = 20 * time.Millisecond
	answerBurst    = 20 * answerCost
	answerAllCost  = answerCost / 10
	answerAllBurst = 200 * answerAllCost
)

// answers says whether a packet of the peer's is a probe that is for us, and answers it.
func (p *peer) answers(now instant, b []byte, own []netip.Addr) bool {
	at, kind := 20, [2]byte{8, 0}
	if b[0]>>4 == 6 {
		at, kind = 40, [2]byte{128, 129}
	} else if b[0]&15 != 5 || b[6]&0xbf|b[7] != 0 { // options, or a fragment: nobody's probe
		return false
	}
	if len(b) < pathmtu.Floor || b[at] != kind[0] || string(b[at+16:][:len(pathmtu.Mark)]) != pathmtu.Mark {
		return false
	}
	_, from := packetSource(b)
	to := packetDestination(b)
	all := &p.engine.paths.answers
	if !slices.Contains(own, to) || p.path.answered.room(now, answerBurst) < answerCost || all.room(now, answerAllBurst) < answerAllCost {
		return false
	}
	p.path.answered.spend(now, answerCost)
	all.spend(now, answerAllCost)
	p.sendProbe(now, echoReply(b, from, to, at, kind[1]))
	return true
}

// echoReply is the answer to an echo request that went from one address to another, whose message begins at an offset.
func echoReply(b []byte, from, to netip.Addr, at int, kind byte) *Batch {
	out := NewBatch(len(b), len(b))
	reply := out.Next(len(b))
	copy(reply, b)
	reply[at] = kind
	sealICMP(reply, to, from)
	return out
}

// sealICMP writes the IP header of a packet that holds an ICMP message, which goes from one address to another, and both checksums.
func sealICMP(b []byte, from, to netip.Addr) {
	var sum uint16
	icmp := b[20:]
	if to.Is4() {
		b[0], b[6], b[8], b[9] = 0x45, 0x40, 64, protocolICMP
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], from.AsSlice())
		copy(b[16:], to.AsSlice())
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^addUp(0, b[:20]))
	} else {
		icmp = b[40:]
		b[0], b[6], b[7] = 0x60, protocolICMP6, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(icmp)))
		copy(b[8:], from.AsSlice())
		copy(b[24:], to.AsSlice())
		sum = plus(addUp(uint16(len(icmp)), b[8:40]), protocolICMP6)
	}
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], ^addUp(sum, icmp))
}

// addUp is the sum of which a checksum is the complement.
func addUp(sum uint16, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum = plus(sum, binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum = plus(sum, uint16(b[0])<<8)
	}
	return sum
}

// probing takes what a peer sent to find out about the path, or in answer to us; false: it is for others.
func (p *peer) probing(now instant, b []byte) bool {
	own := p.engine.own.Load()
	return own != nil && (p.path.listens.Load() && p.isAnswer(now, b) || p.answers(now, b, *own))
}

// isAnswer says whether a packet of the peer's answers a probe, and takes it in.
func (p *peer) isAnswer(now instant, b []byte) bool {
	protocol, at := transport(b)
	kind := byte(0)
	if protocol == protocolICMP6 {
		kind = 129
	} else if protocol != protocolICMP {
		return false
	}
	if at+16 > len(b) || b[at] != kind {
		return false
	}
	icmp := b[at:]
	o := &p.path
	o.mu.Lock()
	number := binary.BigEndian.Uint16(icmp[6:])
	sent := &o.probes[int(number)%len(o.probes)]
	if o.id == 0 || binary.BigEndian.Uint16(icmp[4:]) != o.id || binary.BigEndian.Uint64(icmp[8:]) != o.token || sent.number != number || sent.size != len(b) {
		o.mu.Unlock()
		return false
	}
	trip := now.sub(sent.sent)
	sent.size = 0
	o.search.Answered(time.Duration(now), len(b), trip)
	o.settle(p.engine)
	o.mu.Unlock()
	p.alarm(now) // goes on, or tells, on another goroutine than the reader's
	return true
}
