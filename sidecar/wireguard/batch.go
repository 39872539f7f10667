package wireguard

import "sync"

// Room of a Batch: of one full packet, and of what the socket takes as one message, with the largest packet there is.
const (
	smallBatch = 2 << 10
	largeBatch = 68 << 10
	// MaxPackets is how many packets a Batch may have: as many as go into one message.
	MaxPackets = 64
)

// Batch is a number of packets for one inner destination, each with room around it so that it can be encrypted in place. Those
// that Next made lie one behind the other, ready to be sent as one message.
type Batch struct {
	mtu       int      // inner; packets are padded up to it
	packets   [][]byte // from where the header goes; their capacity includes what padding and tag need
	room      []byte
	pos       int
	keepalive bool
	nonce     nonce
	home      *sync.Pool // nil: it is used once
}

// borrowers are for packets that lie elsewhere.
var borrowers = batches(0)

var (
	smallBatches = batches(smallBatch)
	largeBatches = batches(largeBatch)
)

func batches(size int) *sync.Pool {
	p := &sync.Pool{}
	p.New = func() any {
		return &Batch{room: make([]byte, size), packets: make([][]byte, 0, 1+size/smallBatch*2), home: p}
	}
	return p
}

// NewBatch returns an empty Batch with room for at least one packet of the given size, which is padded up to the inner MTU. It takes
// up to MaxPackets if they are larger than one of the internet's.
func NewBatch(size, mtu int) *Batch {
	pool := largeBatches
	if padded(size, mtu)+Overhead <= smallBatch {
		pool = smallBatches
	}
	b := pool.Get().(*Batch)
	b.mtu = mtu
	return b
}

// Next returns the place of one more packet of the given size; nil if it does not fit.
func (b *Batch) Next(size int) []byte {
	end := b.pos + padded(size, b.mtu) + Overhead
	if end > len(b.room) || len(b.packets) == MaxPackets {
		return nil
	}
	p := b.room[b.pos : b.pos+HeaderSize+size : end]
	b.packets = append(b.packets, p)
	b.pos = end
	return p[HeaderSize:]
}

// Len is how many packets there are.
func (b *Batch) Len() int { return len(b.packets) }

// Packet is the i-th packet, not encrypted yet.
func (b *Batch) Packet(i int) []byte { return b.packets[i][HeaderSize:] }

// Borrow returns an empty Batch for packets that lie in the caller's memory, which is the caller's again when Send returns.
func (e *Engine) Borrow() *Batch {
	b := borrowers.Get().(*Batch)
	b.mtu = e.mtu()
	return b
}

// Add adds a packet where it lies, to a Batch made by Borrow. There must be HeaderSize bytes before start and TailSize behind end,
// which are overwritten.
func (b *Batch) Add(slab []byte, start, end int) {
	b.packets = append(b.packets, slab[start-HeaderSize:end:end+TailSize])
}

// own returns a Batch that keeps its packets when its lender goes on, and that is not much larger than they are: it may have to
// wait for long.
func (b *Batch) own() *Batch {
	need := 0
	for _, p := range b.packets {
		need += WireSize(len(p)-HeaderSize, b.mtu)
	}
	if b.home != borrowers && len(b.room) <= smallBatch+2*need {
		return b
	}
	c := &Batch{mtu: b.mtu, room: make([]byte, need), keepalive: b.keepalive}
	for _, p := range b.packets {
		end := c.pos + WireSize(len(p)-HeaderSize, b.mtu)
		c.packets = append(c.packets, append(c.room[c.pos:c.pos:end], p...))
		c.pos = end
	}
	b.Free()
	return c
}

// size is the bytes of all packets as they are now.
func (b *Batch) size() (n int) {
	for _, p := range b.packets {
		n += len(p)
	}
	return n
}

// longest is the size of the longest packet, which are not encrypted yet.
func (b *Batch) longest() (n int) {
	for _, p := range b.packets {
		n = max(n, len(p)-HeaderSize)
	}
	return n
}

// narrow has the packets, which are not encrypted yet, padded no further than what the path takes, and connections that they begin use no
// longer ones.
func (b *Batch) narrow(limit int) {
	b.mtu = min(b.mtu, limit)
	for _, p := range b.packets {
		clampSegments(p[HeaderSize:], limit)
	}
}

// exceeds says whether a packet, encrypted as they are by now, is longer than an inner one of that size.
func (b *Batch) exceeds(limit int) bool {
	for _, p := range b.packets {
		if len(p) > limit+Overhead {
			return true
		}
	}
	return false
}

// Free gives back a Batch that is not to be sent.
func (b *Batch) Free() {
	clear(b.packets)
	b.packets, b.pos, b.keepalive = b.packets[:0], 0, false
	if b.home != nil {
		b.home.Put(b)
	}
}
