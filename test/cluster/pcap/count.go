package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// maxFlows bounds the list of flows that explains a found marker.
const maxFlows = 10

// Stats is what a capture holds. A packet that passes several interfaces of the namespace counts once on each.
type Stats struct {
	Packets   int `json:"packets"`
	IP        int `json:"ip"`
	TCP       int `json:"tcp"`
	UDP       int `json:"udp"`
	WireGuard int `json:"wireguard"`
	// Data counts the WireGuard packets that carry more than a keepalive.
	Data int `json:"wireguardData"`
	// Marker counts the packets that contain the marker. One that is split between two packets is not found.
	Marker      int      `json:"marker"`
	MarkerFlows []string `json:"markerFlows,omitempty"`
}

// Count reads a whole capture. An empty marker is never found.
func Count(r io.Reader, marker []byte) (Stats, error) {
	var s Stats
	pr, err := newReader(r)
	if err != nil {
		return s, err
	}
	for {
		b, err := pr.next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		s.add(decode(pr.link, b), b, marker)
	}
}

func (s *Stats) add(p packet, raw, marker []byte) {
	s.Packets++
	if p.src.IsValid() {
		s.IP++
	}
	switch p.protocol {
	case protocolTCP:
		s.TCP++
	case protocolUDP:
		s.UDP++
		if isWireGuard(p.payload) {
			s.WireGuard++
			if p.payload[0] == messageData && len(p.payload) > 32 {
				s.Data++
			}
		}
	}
	if len(marker) > 0 && bytes.Contains(raw, marker) {
		s.Marker++
		s.addFlow(fmt.Sprintf("%s > %s protocol %d", p.src, p.dst, p.protocol))
	}
}

func (s *Stats) addFlow(flow string) {
	for _, f := range s.MarkerFlows {
		if f == flow {
			return
		}
	}
	if len(s.MarkerFlows) < maxFlows {
		s.MarkerFlows = append(s.MarkerFlows, flow)
	}
}

const messageData = 4

// isWireGuard goes by type, reserved bytes and length: 148 initiation, 92 response, 64 cookie reply, and data, which
// is padded to 16 bytes and has 32 of header and tag.
func isWireGuard(b []byte) bool {
	if len(b) < 32 || b[1]|b[2]|b[3] != 0 {
		return false
	}
	switch b[0] {
	case 1:
		return len(b) == 148
	case 2:
		return len(b) == 92
	case 3:
		return len(b) == 64
	case messageData:
		return len(b)%16 == 0
	}
	return false
}

const (
	protocolTCP = 6
	protocolUDP = 17
)

// packet is as much of a packet as was understood; the rest is zero.
type packet struct {
	src, dst netip.AddrPort
	protocol uint8
	payload  []byte
}

func decode(link uint32, b []byte) packet {
	etherType, b := stripLink(link, b)
	for etherType == 0x8100 && len(b) >= 4 { // VLAN tag
		etherType, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	switch {
	case etherType == 0x0800 && len(b) >= 20:
		return decodeIPv4(b)
	case etherType == 0x86dd && len(b) >= 40:
		return decodeIPv6(b)
	}
	return packet{}
}

// stripLink returns the ethertype, 0 if there is none that we know, and what follows the link header.
func stripLink(link uint32, b []byte) (uint16, []byte) {
	skip, typeAt := 0, 0
	switch link {
	case linkEthernet:
		skip, typeAt = 14, 12
	case linkSLL:
		skip, typeAt = 16, 14
	case linkSLL2:
		skip, typeAt = sll2Length, 0
	case linkNull:
		skip = 4
	case linkRaw, linkIPv4, linkIPv6:
	default:
		return 0, nil
	}
	if len(b) <= skip {
		return 0, nil
	}
	if skip > 4 {
		return binary.BigEndian.Uint16(b[typeAt:]), b[skip:]
	}
	switch b = b[skip:]; b[0] >> 4 {
	case 4:
		return 0x0800, b
	case 6:
		return 0x86dd, b
	}
	return 0, nil
}

func decodeIPv4(b []byte) packet {
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	if b[0]>>4 != 4 || header < 20 || header > len(b) {
		return packet{}
	}
	if total >= header && total < len(b) {
		b = b[:total] // Ethernet pads short frames
	}
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 { // a later fragment has no ports
		return packet{src: netip.AddrPortFrom(src, 0), dst: netip.AddrPortFrom(dst, 0)}
	}
	return decodeTransport(src, dst, b[9], b[header:])
}

func decodeIPv6(b []byte) packet {
	if b[0]>>4 != 6 {
		return packet{}
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, length, b := b[6], int(binary.BigEndian.Uint16(b[4:])), b[40:]
	if length < len(b) {
		b = b[:length]
	}
	// Hop-by-hop, routing and destination options: next header, length in 8 bytes beyond the first 8.
	for (next == 0 || next == 43 || next == 60) && len(b) >= 8 {
		n := 8 + int(b[1])*8
		if n > len(b) {
			break
		}
		next, b = b[0], b[n:]
	}
	return decodeTransport(src, dst, next, b)
}

func decodeTransport(src, dst netip.Addr, protocol uint8, b []byte) packet {
	p := packet{src: netip.AddrPortFrom(src, 0), dst: netip.AddrPortFrom(dst, 0), protocol: protocol}
	if (protocol != protocolTCP && protocol != protocolUDP) || len(b) < 8 {
		return p
	}
	p.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	p.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	if n := int(binary.BigEndian.Uint16(b[4:])); protocol == protocolUDP && n >= 8 && n <= len(b) {
		p.payload = b[8:n]
	}
	return p
}
