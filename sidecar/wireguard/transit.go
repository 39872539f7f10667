package wireguard

import (
	"encoding/binary"
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// hub is the own addresses of an engine that passes packets on: what is for them stays.
type hub map[netip.Addr]struct{}

func (h hub) has(a netip.Addr) bool {
	_, ok := h[a]
	return ok
}

// SetHub makes the engine pass on what one peer sends to another, if the interface is a hub: between outside peers and the others, in
// both directions; never among outside peers, which are strangers to each other, nor among the others, which have no need. What is
// for the interface's own addresses is delivered here.
func (e *Engine) SetHub(i datapath.Interface) {
	if !i.Hub {
		e.hub.Store(nil)
		return
	}
	h := make(hub, len(i.Addresses))
	for _, p := range i.Addresses {
		h[p.Addr()] = struct{}{}
	}
	e.hub.Store(&h)
}

// transit is what a receiver gathers for one destination to pass on.
type transit struct {
	dst   netip.Addr
	next  *peer // nil: looked up anew
	batch *Batch
}

// passOn takes a packet that is not for us, where it is in the datagram that brought it: there is room around it for another
// encryption, and datagrams that arrived as one message leave as one.
func (r *receiver) passOn(own hub, d, packet []byte, src netip.Addr) bool {
	dst := packetDestination(packet)
	if own.has(dst) {
		return false
	}
	t := &r.transit
	if t.next == nil || t.dst != dst {
		r.flushTransit()
		t.dst, t.next = dst, r.engine.route(dst)
	}
	switch count := &r.engine.count; {
	case !datapath.Unicast(src) || own.has(src): // of a peer that may have every address
		count.source.Add(1)
	case t.next == nil || !datapath.Unicast(dst):
		count.noPeer.Add(1)
	case t.next.outside.Load() == r.owner.outside.Load():
		count.notForwarded.Add(1)
	case r.tooBig(packet, t.next.pathLimit()):
	case !age(packet):
		count.expired.Add(1)
	default:
		if t.batch == nil {
			t.batch = borrowers.Get().(*Batch)
			t.batch.mtu = 0 // it keeps the padding that it came with
		}
		end := len(d) - tagSize
		t.batch.packets = append(t.batch.packets, d[:end:len(d)])
	}
	return true
}

// flushTransit passes on what was gathered. The datagrams are the reader's again afterwards.
func (r *receiver) flushTransit() {
	t := &r.transit
	if t.batch != nil {
		t.next.send(t.batch)
	}
	*t = transit{}
}

// packetDestination is that of a packet that packetSource took for one.
func packetDestination(b []byte) netip.Addr {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[16:20]))
	}
	return netip.AddrFrom16([16]byte(b[24:40]))
}

// age takes one from the hops that a packet may make; false if it may make no more.
func age(b []byte) bool {
	if b[0]>>4 == 6 {
		if b[7] <= 1 {
			return false
		}
		b[7]--
		return true
	}
	if b[8] <= 1 {
		return false
	}
	b[8]--
	// RFC 1624: the word that holds the hops became less by 0x100, so the sum's complement becomes more, with its carry.
	sum := uint32(binary.BigEndian.Uint16(b[10:])) + 0x100
	binary.BigEndian.PutUint16(b[10:], uint16(sum+sum>>16))
	return true
}
