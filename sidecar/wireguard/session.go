package wireguard

import (
	"crypto/cipher"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailscale/wireguard-go/replay"
	"golang.org/x/crypto/chacha20poly1305"
)

// Section 6.1: how long a session may be used.
const (
	rekeyAfterMessages  = 1 << 60
	rejectAfterMessages = 1<<64 - 1<<13 - 1
	rekeyAfter          = 120 * time.Second
	rejectAfter         = 180 * time.Second
)

// nonce is the room that a message's number needs as the cipher takes it. It is kept, because it would be garbage after each packet;
// the first four bytes stay zero.
type nonce [chacha20poly1305.NonceSize]byte

// session is a pair of transport keys.
type session struct {
	peer      *peer
	initiator bool // we began the handshake, so renewing it is ours
	created   instant
	local     uint32 // index by which the peer addresses us
	remote    uint32 // index by which we address the peer
	sends     cipher.AEAD
	receives  cipher.AEAD

	nonce atomic.Uint64 // the next to send with

	mu   sync.Mutex // guards what follows; one reader for each socket may have packets of the session
	seen replay.Filter
	reorder
}

// usable says whether it may still encrypt and decrypt.
func (s *session) usable(now instant) bool {
	return s != nil && now.sub(s.created) < rejectAfter && s.nonce.Load() < rejectAfterMessages
}

// stale says whether it is time for the next one, as far as sending tells.
func (s *session) stale(now instant) bool {
	return s.nonce.Load() > rekeyAfterMessages || s.initiator && now.sub(s.created) > rekeyAfter
}

// seal encrypts every packet of the batch in place; false if the session may not send so many more.
func (s *session) seal(b *Batch) bool {
	n := uint64(len(b.packets))
	next := s.nonce.Add(n) - n
	if next+n > rejectAfterMessages {
		s.nonce.Store(rejectAfterMessages)
		return false
	}
	number := &b.nonce
	for i, p := range b.packets {
		size := len(p) - HeaderSize
		full := padded(size, b.mtu)
		p = p[:HeaderSize+full]
		clear(p[HeaderSize+size:])
		binary.LittleEndian.PutUint32(p, typeTransport)
		binary.LittleEndian.PutUint32(p[transReceiver:], s.remote)
		binary.LittleEndian.PutUint64(p[transCounter:], next)
		binary.LittleEndian.PutUint64(number[4:], next)
		next++
		out := s.sends.Seal(p[HeaderSize:HeaderSize], number[:], p[HeaderSize:], nil)
		b.packets[i] = p[:HeaderSize+len(out)]
	}
	return true
}

// open decrypts a transport message in place; nil if it is not of this session.
func (s *session) open(msg []byte, number *nonce) (plain []byte, counter uint64) {
	counter = binary.LittleEndian.Uint64(msg[transCounter:])
	binary.LittleEndian.PutUint64(number[4:], counter)
	plain, err := s.receives.Open(msg[HeaderSize:HeaderSize], number[:], msg[HeaderSize:], nil)
	if err != nil {
		return nil, counter
	}
	return plain, counter
}

// sessions are a peer's, as section 6.3 has them. Whoever changes them holds peer.mu; readers need nothing.
type sessions struct {
	current atomic.Pointer[session] // what we send with
	prev    atomic.Pointer[session] // what may still arrive
	next    atomic.Pointer[session] // what we answered to and the peer has not used yet
}

// install takes in a new session and returns those that are over. One that the peer began is not ours to send with before it
// has shown, by using it, that our answer arrived.
func (ss *sessions) install(s *session) (over [2]*session) {
	if !s.initiator {
		return [2]*session{ss.next.Swap(s), ss.prev.Swap(nil)}
	}
	was := ss.current.Load()
	if next := ss.next.Swap(nil); next != nil {
		over = [2]*session{ss.prev.Swap(next), was}
	} else {
		over = [2]*session{ss.prev.Swap(was), nil}
	}
	ss.current.Store(s)
	return over
}

// confirm makes next, which has been used, the current session.
func (ss *sessions) confirm() (over *session) {
	over = ss.prev.Swap(ss.current.Load())
	ss.current.Store(ss.next.Swap(nil))
	return over
}

// clear ends all of them.
func (ss *sessions) clear() (over [3]*session) {
	return [3]*session{ss.current.Swap(nil), ss.prev.Swap(nil), ss.next.Swap(nil)}
}

// indices are those that the peer addresses us by.
func (ss *sessions) indices() (out []uint32) {
	for _, s := range []*session{ss.current.Load(), ss.prev.Load(), ss.next.Load()} {
		if s != nil {
			out = append(out, s.local)
		}
	}
	return out
}
