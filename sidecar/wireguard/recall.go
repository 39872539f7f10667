package wireguard

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"golang.org/x/crypto/blake2s"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Who becomes the holder of a key anew, a gateway that takes over or a sidecar that was restarted, has none of its peers' sessions. Peers
// go on using them for the 15 seconds that they wait for an answer, and no message of WireGuard's tells them better. Greeting them
// where they were last is not enough: the way back to one behind a node's port or a load balancer is open only once a packet of his
// has come. So each index of ours tells whoever has our private key, and nobody else, whose it is, and one that we do not know any more
// makes us begin a handshake with that peer, towards where the packet came from. What is not authenticated changes nothing else: not
// where the peer is taken to be, nor a session that is in use.
const (
	// recallAgain is how long after a recall the same peer is recalled again at the soonest: whoever repeats a peer's packets from elsewhere
	// makes us send as many messages of 148 bytes.
	recallAgain = time.Second
	// answerTime is what an initiation that has been sent, as to greet the peer, is given to be answered: two would make two sessions.
	answerTime = time.Second / 2
	// lookAgain is that of any two looks.
	lookAgain = 2 * time.Millisecond
)

// indexMark is the key by which an index tells whose it is.
type indexMark [blake2s.Size128]byte

func newIndexMark(private []byte) (m indexMark) {
	copy(m[:], keyed(private, []byte("tenantwire index")))
	return m
}

// keyed is the message's keyed BLAKE2s, 16 bytes.
func keyed(by, message []byte) []byte {
	h, err := blake2s.New128(by)
	if err != nil {
		panic(err) // of keys longer than 32 bytes
	}
	h.Write(message)
	return h.Sum(nil)
}

// tag is what an index says of a peer: peers may share one.
func (m *indexMark) tag(k key.Public) uint16 { return binary.LittleEndian.Uint16(keyed(m[:], k[:])) }

// index is one for a peer with the tag: a random half, and the tag hidden by it.
func (m *indexMark) index(tag uint16) uint32 {
	half := uint16(rand.Uint32()) //nolint:gosec // a half of it
	return uint32(half)<<16 | uint32(tag^m.mask(half))
}

// tagOf undoes index.
func (m *indexMark) tagOf(n uint32) uint16 {
	return uint16(n) ^ m.mask(uint16(n>>16)) //nolint:gosec // halves
}

func (m *indexMark) mask(half uint16) uint16 {
	return binary.LittleEndian.Uint16(keyed(m[:], binary.LittleEndian.AppendUint16(nil, half)))
}

// stray has a worker look whose packet of no session that was, unless there are too many to look at.
func (e *Engine) stray(packet []byte, now instant, from *endpoint) {
	next := e.looks.Load()
	if int64(now) < next || !e.looks.CompareAndSwap(next, int64(now.add(lookAgain))) || len(e.letters) >= cap(e.letters)/8 {
		return
	}
	l := &letter{from: from}
	l.size = copy(l.text[:], packet[:transCounter])
	select {
	case e.letters <- l:
	default:
	}
}

// recall begins a handshake with those whose index it may have been.
func (e *Engine) recall(msg []byte, now instant, from *endpoint) {
	tag := e.index.mark.tagOf(binary.LittleEndian.Uint32(msg[transReceiver:]))
	var found []*peer
	e.mu.RLock()
	for _, p := range e.peers {
		if p.tag == tag {
			found = append(found, p)
		}
	}
	e.mu.RUnlock()
	for _, p := range found {
		p.sendHandshakeTo(from, now, p.recall(now))
	}
}

// recall makes an initiation for a peer that may be using a session that is gone. It returns nil where there is no need for one.
func (p *peer) recall(now instant) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asking.sent != 0 && now.sub(p.asking.sent) < answerTime || p.recalled != 0 && now.sub(p.recalled) < recallAgain
	if asked || p.gone || p.static == nil || p.current.Load().usable(now) || p.next.Load().usable(now) {
		return nil
	}
	p.recalled = now
	if p.asking.sent == 0 {
		p.asking.since = now
	}
	return p.initiation(now)
}
