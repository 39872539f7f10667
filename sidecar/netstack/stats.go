package netstack

import "sync/atomic"

// Stats is what a Stack has counted since it was made.
type Stats struct {
	RxPackets, RxBytes uint64 // delivered inwards, as they came from the engine
	RxMerged           uint64 // of these, packets that joined the one before them
	TxPackets, TxBytes uint64 // handed to the engine

	DropMalformed    uint64 // inbound: not an IP packet, or its lengths disagree
	DropDestination  uint64 // inbound: not for one of our addresses
	DropSource       uint64 // inbound: a source that no peer can have, or our own
	DropTxNotUnicast uint64 // outbound: to an address that no tunnel carries
	DropTxTooLong    uint64 // outbound: longer than the engine's buffer
	DropTCPRequests  uint64 // connection requests over the limit
	DropUDPFlows     uint64 // first datagrams over the limit, and datagrams that came while their flow was not yet answered
	RefusedTCP       uint64
	RefusedUDP       uint64
}

type counters struct {
	rxPackets, rxBytes, rxMerged, txPackets, txBytes        atomic.Uint64
	malformed, destination, source, txNotUnicast, txTooLong atomic.Uint64
	tcpOverLimit, udpOverLimit, refusedTCP, refusedUDP      atomic.Uint64
}

// Stats returns the counters. They are read one by one: a snapshot taken under load may be a packet apart in places.
func (s *Stack) Stats() Stats {
	c := &s.count
	return Stats{
		RxPackets: c.rxPackets.Load(), RxBytes: c.rxBytes.Load(), RxMerged: c.rxMerged.Load(),
		TxPackets: c.txPackets.Load(), TxBytes: c.txBytes.Load(),
		DropMalformed: c.malformed.Load(), DropDestination: c.destination.Load(), DropSource: c.source.Load(),
		DropTxNotUnicast: c.txNotUnicast.Load(), DropTxTooLong: c.txTooLong.Load(),
		DropTCPRequests: c.tcpOverLimit.Load(), DropUDPFlows: c.udpOverLimit.Load(),
		RefusedTCP: c.refusedTCP.Load(), RefusedUDP: c.refusedUDP.Load(),
	}
}
