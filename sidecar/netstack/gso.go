package netstack

import "net/netip"

// Sizes of the super-segments that gVisor's TCP hands to the link.
//
// The outer socket sends up to 64 equal datagrams in one message (UDP GSO). A super-segment is made of exactly as many packets
// as fill one such message: one more, and each would cost two messages, the second nearly empty. The bound is not UDP's 65,507
// bytes but that of the devices below: a frame of 65,536 bytes or more, with its Ethernet, IP and UDP headers, is taken apart in
// software, packet by packet, before it leaves the sender.
const (
	maxUDPSegments = 64
	maxUDPPayload  = 65536 - 1 - 14 - 40 - 8 // over IPv6, the lesser of both
	wireOverhead   = 32 // WireGuard's header and authentication tag
	wirePadding    = 16 // WireGuard pads plaintext to a multiple of this

	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	// gVisor sizes its segments for a full set of TCP options (timestamps and SACK blocks) although a packet with data
	// carries timestamps only.
	tcpOptionsReserved = 40
	tcpTimestamps      = 12
	// gVisor takes this much off GSOMaxSize before it cuts payload.
	gsoReserve = 161
)

// segmentPayload is TCP's payload in a full packet of the family with that IP header.
func segmentPayload(mtu, ipHeader int) int { return mtu - ipHeader - tcpHeader - tcpOptionsReserved }

// segmentsPerSuper is how many full packets make one super-segment.
func segmentsPerSuper(mtu int) int {
	packet := mtu - tcpOptionsReserved + tcpTimestamps
	wire := min(mtu, (packet+wirePadding-1)/wirePadding*wirePadding) + wireOverhead
	return max(1, min(maxUDPSegments, maxUDPPayload/wire))
}

// gsoMaxSize is what the link reports so that IPv4 super-segments come out aligned. gVisor asks for one number for both
// families; IPv6, whose packets carry 20 bytes less, is aligned by writing in chunks of superPayload.
func gsoMaxSize(mtu int) int {
	return segmentsPerSuper(mtu)*segmentPayload(mtu, ipv4Header) + gsoReserve
}

// superPayload is the payload of one aligned super-segment to the given address: the best size to write to a Stream.
func superPayload(mtu int, to netip.Addr) int {
	h := ipv6Header
	if to.Is4() {
		h = ipv4Header
	}
	return segmentsPerSuper(mtu) * segmentPayload(mtu, h)
}
