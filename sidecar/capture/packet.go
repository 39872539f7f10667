package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Numbers of protocols and of IPv6 headers.
const (
	protocolICMP  = 1
	protocolTCP   = 6
	protocolUDP   = 17
	protocolICMP6 = 58

	hopByHop       = 0
	routingHeader  = 43
	fragmentHeader = 44
	destinations   = 60
)

// maxExtensions bounds the headers between an IPv6 packet's and its payload's.
const maxExtensions = 8

// Packet is what the headers of an IP packet say.
type Packet struct {
	Source, Destination netip.AddrPort // the ports are zero where there are none
	Protocol            byte           // of the payload; of later fragments, that of the first
	Length              int            // bytes of the packet; what follows, as padding does, is none of it
}

// Parse reads the headers; false if b does not begin with those of an IP packet. b may be cut off behind the IP header. It never
// allocates.
func Parse(b []byte) (p Packet, ok bool) {
	var src, dst netip.Addr
	var at int
	var ports bool
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		at = int(b[0]&15) * 4
		p.Length, p.Protocol = int(binary.BigEndian.Uint16(b[2:])), b[9]
		if at < 20 || p.Length < at {
			return Packet{}, false
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		ports = binary.BigEndian.Uint16(b[6:])&0x1fff == 0
	case len(b) >= 40 && b[0]>>4 == 6:
		p.Length = int(binary.BigEndian.Uint16(b[4:])) + 40
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.Protocol, at, ports = payload6(b)
	default:
		return Packet{}, false
	}
	var from, to uint16
	if ports && (p.Protocol == protocolTCP || p.Protocol == protocolUDP) && at+4 <= min(len(b), p.Length) {
		from, to = binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
	}
	p.Source, p.Destination = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return p, true
}

// payload6 finds what an IPv6 packet carries; first is false for fragments but the first, which have no header of it.
func payload6(b []byte) (protocol byte, at int, first bool) {
	protocol, at, first = b[6], 40, true
	for range maxExtensions {
		switch protocol {
		case hopByHop, destinations, routingHeader, fragmentHeader:
		default:
			return protocol, at, first
		}
		if at+8 > len(b) {
			return protocol, len(b), false
		}
		size := 8 * (1 + int(b[at+1]))
		if protocol == fragmentHeader {
			size = 8
			first = first && binary.BigEndian.Uint16(b[at+2:])>>3 == 0
		}
		protocol, at = b[at], at+size
	}
	return protocol, len(b), false
}

// String is a line of text about the packet.
func (p Packet) String() string {
	return fmt.Sprintf("%s > %s: %s, %d bytes", end(p.Source), end(p.Destination), protocolName(p.Protocol), p.Length)
}

func end(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

func protocolName(n byte) string {
	switch n {
	case protocolTCP:
		return "TCP"
	case protocolUDP:
		return "UDP"
	case protocolICMP, protocolICMP6:
		return "ICMP"
	}
	return fmt.Sprintf("protocol %d", n)
}
