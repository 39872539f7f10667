package wireguard

import "encoding/binary"

// Messages as they are on the wire, section 5.4 of the WireGuard paper. Integers are little endian.
const (
	typeInitiation = 1
	typeResponse   = 2
	typeCookie     = 3
	typeTransport  = 4

	initiationSize = 148
	responseSize   = 92
	cookieSize     = 64

	// HeaderSize is the room that encryption needs before a packet.
	HeaderSize = 16
	tagSize    = 16
	padTo      = 16
	// TailSize is the room that encryption may need behind it.
	TailSize = padTo - 1 + tagSize
	// Overhead is how much longer a packet is on the wire than inside, besides padding.
	Overhead = HeaderSize + tagSize

	macSize = 16
)

// Where the fields of an initiation begin, and those of a response.
const (
	atIndex = 4 // the sender's, in both

	initEphemeral = 8
	initStatic    = initEphemeral + 32
	initTimestamp = initStatic + 32 + tagSize
	initMACs      = initTimestamp + len(timestamp{}) + tagSize

	respReceiver  = 8
	respEphemeral = 12
	respEmpty     = respEphemeral + 32
	respMACs      = respEmpty + tagSize

	cookieNonce  = 8
	cookieSealed = cookieNonce + 24
)

// Where the fields of a transport message begin.
const (
	transReceiver = 4
	transCounter  = 8
)

func messageType(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

// handshakeSize is the only length that a handshake message of a type may have; zero for other types.
func handshakeSize(kind uint32) int {
	switch kind {
	case typeInitiation:
		return initiationSize
	case typeResponse:
		return responseSize
	case typeCookie:
		return cookieSize
	}
	return 0
}

// padded is a packet's size once padded: to a multiple of 16, but not beyond the inner MTU.
func padded(size, mtu int) int {
	if size >= mtu {
		return size
	}
	return min(mtu, (size+padTo-1)/padTo*padTo)
}

// WireSize is a packet's size on the wire.
func WireSize(size, mtu int) int { return padded(size, mtu) + Overhead }
