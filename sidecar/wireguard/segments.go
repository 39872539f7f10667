package wireguard

import "encoding/binary"

// clampSegments has a packet that begins a TCP connection ask for segments that fit into packets of the given size, in bytes. What asks for
// less, and all other packets, stay as they are.
func clampSegments(b []byte, limit int) {
	const syn, endOfOptions, noOperation, segmentSize = 2, 0, 1, 2
	if len(b) < 40 || b[0]>>4 == 4 && b[9] != protocolTCP || b[0]>>4 == 6 && b[6] != protocolTCP {
		return
	}
	protocol, at := transport(b)
	if protocol != protocolTCP || at+20 > len(b) || b[at+13]&syn == 0 {
		return
	}
	tcp := b[at:]
	header := min(int(tcp[12]>>4)*4, len(tcp))
	for o := 20; o+1 < header; {
		switch kind, size := tcp[o], int(tcp[o+1]); {
		case kind == endOfOptions:
			return
		case kind == noOperation:
			o++
		case size < 2 || o+size > header:
			return
		case kind == segmentSize && size == 4:
			lower(tcp, o+2, limit-at-20)
			return
		default:
			o += size
		}
	}
}

// lower makes the number at an offset of a TCP header the given one, if it is more, and mends the checksum.
func lower(tcp []byte, at, to int) {
	field := tcp[at : at+2]
	was := binary.BigEndian.Uint16(field)
	if int(was) <= to || to <= 0 {
		return
	}
	binary.BigEndian.PutUint16(field, uint16(to))
	gain := plus(uint16(to), ^was)
	if at%2 != 0 { // an option may begin anywhere: the sum has its bytes the other way round
		gain = gain<<8 | gain>>8
	}
	correct(tcp[16:], gain)
}
