package wireguard

import "encoding/binary"

// Numbers of protocols and of IPv6 headers.
const (
	hopByHop        = 0
	protocolICMP    = 1
	protocolTCP     = 6
	protocolUDP     = 17
	routingHeader   = 43
	fragmentHeader  = 44
	protocolICMP6   = 58
	noTransport     = 59 // "no next header"
	destinations    = 60
	protocolUDPLite = 136
)

// maxExtensions bounds the headers between an IPv6 packet's and its payload's: nobody sends more, and a walk must end.
const maxExtensions = 8

// transport finds the header of an IP packet's payload: its protocol, and where it begins, which is within b or at its end. It is
// noTransport where there is none, as in all fragments but the first, or none that can be found. b has a whole IP header and may be cut
// off behind it.
func transport(b []byte) (protocol byte, at int) {
	if b[0]>>4 != 4 {
		return transport6(b)
	}
	const offset = 0x1fff
	at = int(b[0]&15) * 4
	if at < 20 || at > len(b) || binary.BigEndian.Uint16(b[6:])&offset != 0 {
		return noTransport, len(b)
	}
	if b[9] == protocolICMP6 { // the other family's
		return noTransport, len(b)
	}
	return b[9], at
}

func transport6(b []byte) (protocol byte, at int) {
	protocol, at = b[6], 40
	for range maxExtensions {
		size := 0
		switch protocol {
		case hopByHop, destinations, routingHeader, fragmentHeader:
			if at+8 > len(b) {
				return noTransport, len(b)
			}
			size = 8 * (1 + int(b[at+1]))
		case protocolICMP:
			return noTransport, len(b)
		default:
			return protocol, at
		}
		switch {
		case protocol == fragmentHeader && binary.BigEndian.Uint16(b[at+2:])>>3 != 0:
			return noTransport, len(b)
		case protocol == fragmentHeader:
			size = 8
		case protocol == routingHeader && b[at+3] != 0: // checksums are over where it goes in the end, which only the header knows
			return noTransport, len(b)
		}
		if at+size > len(b) {
			return noTransport, len(b)
		}
		protocol, at = b[at], at+size
	}
	return noTransport, len(b)
}

// amend makes the checksum of a payload right again after an address has gained so much; false if there is none that covers it.
func amend(b []byte, protocol byte, at int, gain uint16) bool {
	udp := false
	switch protocol {
	case protocolTCP:
		at += 16
	case protocolUDP, protocolUDPLite:
		at, udp = at+6, true
	case protocolICMP6:
		at += 2
	default:
		return false
	}
	if at+2 > len(b) {
		return false
	}
	sum := b[at : at+2]
	if udp && sum[0]|sum[1] == 0 {
		return false // the sender made none
	}
	correct(sum, gain)
	if udp && sum[0]|sum[1] == 0 {
		sum[0], sum[1] = 0xff, 0xff // the same number, and not "none"
	}
	return true
}

// isError says whether the payload is an ICMP error with a quoted packet, of which nothing may be there.
func isError(b []byte, protocol byte, at int) bool {
	if at+8 > len(b) {
		return false
	}
	switch protocol {
	case protocolICMP:
		return b[at] == 3 || b[at] == 4 || b[at] == 11 || b[at] == 12 // unreachable, source quench, time exceeded, parameter problem
	case protocolICMP6:
		return b[at] >= 1 && b[at] <= 4 // unreachable, too big, time exceeded, parameter problem
	}
	return false
}
