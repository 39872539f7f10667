package wireguard

import (
	"encoding/binary"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// A hub is a router: to who sends what the path to the next peer does not take it says so, as long as that heeds it.

// quoted is how much of the packet is sent back: what every host takes, its address and headers, and the beginning of TCP's.
const quoted = 512

// What comes from one peer is answered so at most a thousand times a second, and a hundred times at once.
const (
	tellCost  = time.Millisecond
	tellBurst = 100 * tellCost
)

// tooBig says whether a packet is longer than the path to its next peer takes and its sender minds: then the sender is told. What may be cut
// is passed on, in fragments, and so is what IPv6 takes for granted.
func (r *receiver) tooBig(packet []byte, limit int) bool {
	const dontFragment = 0x40
	if six := packet[0]>>4 == 6; limit == 0 || len(packet) <= limit || six && len(packet) <= datapath.MinMTU || !six && packet[6]&dontFragment == 0 {
		return false
	}
	r.engine.count.tooBig.Add(1)
	if protocol, at := transport(packet); !isError(packet, protocol, at) && r.owner.path.telling.room(r.now, tellBurst) >= tellCost {
		r.owner.path.telling.spend(r.now, tellCost)
		r.owner.send(tooBigMessage(packet, limit))
	}
	return true
}

// tooBigMessage is the ICMP message that a packet is longer than limit. It comes from the packet's destination, which is what its sender may
// hear from.
func tooBigMessage(packet []byte, limit int) *Batch {
	_, src := packetSource(packet)
	dst := packetDestination(packet)
	at := 20
	if src.Is6() {
		at, limit = 40, max(limit, datapath.MinMTU)
	}
	quote := packet[:min(len(packet), quoted)]
	size := at + 8 + len(quote)
	b := NewBatch(size, size)
	out := b.Next(size)
	clear(out[:at+8])
	copy(out[at+8:], quote)
	if icmp := out[at:]; src.Is6() {
		icmp[0] = 2
		binary.BigEndian.PutUint32(icmp[4:], uint32(limit))
	} else {
		icmp[0], icmp[1] = 3, 4
		binary.BigEndian.PutUint16(icmp[6:], uint16(limit))
	}
	sealICMP(out, dst, src)
	return b
}
