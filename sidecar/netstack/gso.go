package netstack

import (
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/wireguard"
)

// Sizes of the super-segments that gVisor's TCP hands to the link.
//
// The engine sends up to 64 equal datagrams as one message, of a size that network devices take whole. So a super-segment is made
// of exactly as many packets as fill one message: one more, and each would cost two messages, the second nearly empty.
const (
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
	return max(1, min(wireguard.MaxPackets, wireguard.MaxMessage/wireguard.WireSize(packet, mtu)))
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
