package wireguard

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Section 5.4.4 and 5.4.7: two MACs close every handshake message. The first shows that the sender knows whom it talks to, the
// second, asked for only under load, that it can receive at the address it sends from.

const cookieLife = 120 * time.Second

type mac16 [macSize]byte

// macKeys are derived from the public key of whoever a handshake message is for.
type macKeys struct {
	first  hash32 // of the first MAC
	cookie hash32 // that cookies are encrypted with
}

func newMACKeys(to key.Public) macKeys {
	return macKeys{
		first:  blake2s.Sum256(append([]byte("mac1----"), to[:]...)),
		cookie: blake2s.Sum256(append([]byte("cookie--"), to[:]...)),
	}
}

func keyedMAC(k []byte, parts ...[]byte) (out mac16) {
	h, err := blake2s.New128(k)
	if err != nil {
		panic("wireguard: BLAKE2s: " + err.Error()) // unreachable: keys are 16 or 32 bytes
	}
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(out[:0])
	return out
}

// macs splits a handshake message into what the MACs cover and the two MACs.
func macs(msg []byte) (body, first, second []byte) {
	at := len(msg) - 2*macSize
	return msg[:at], msg[at : at+macSize], msg[at+macSize:]
}

// checker is the receiving side.
type checker struct {
	keys macKeys

	mu     sync.Mutex
	secret hash32
	made   time.Time
}

func (c *checker) firstValid(msg []byte) bool {
	body, first, _ := macs(msg)
	want := keyedMAC(c.keys.first[:], body)
	return hmac.Equal(want[:], first)
}

// secondValid says whether the message has a cookie that we gave to that address.
func (c *checker) secondValid(msg []byte, from netip.AddrPort, now time.Time) bool {
	cookie, ok := c.cookie(from, now, false)
	if !ok {
		return false
	}
	body, first, second := macs(msg)
	want := keyedMAC(cookie[:], body, first)
	return hmac.Equal(want[:], second)
}

// cookie is the address's; false if there is none valid and none is to be made.
func (c *checker) cookie(from netip.AddrPort, now time.Time, make bool) (mac16, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made.IsZero() || now.Sub(c.made) >= cookieLife {
		if !make {
			return mac16{}, false
		}
		_, _ = rand.Read(c.secret[:]) // never fails: crypto/rand aborts the program instead
		c.made = now
	}
	text, _ := from.MarshalBinary() // never fails
	return keyedMAC(c.secret[:], text), true
}

// reply makes the answer to a message from that address: come again with this cookie.
func (c *checker) reply(msg []byte, from netip.AddrPort, now time.Time) []byte {
	cookie, _ := c.cookie(from, now, true)
	_, first, _ := macs(msg)
	out := make([]byte, cookieSealed, cookieSize)
	binary.LittleEndian.PutUint32(out, typeCookie)
	copy(out[atIndex:], msg[atIndex:atIndex+4])
	_, _ = rand.Read(out[cookieNonce:cookieSealed])
	x, err := chacha20poly1305.NewX(c.keys.cookie[:])
	if err != nil {
		panic("wireguard: a 32-byte key was refused: " + err.Error()) // unreachable: the length is fixed
	}
	return x.Seal(out, out[cookieNonce:cookieSealed], cookie[:], first)
}

// signer is the sending side, towards one peer. Its owner locks.
type signer struct {
	keys macKeys
	last mac16 // the first MAC of what was sent last: a cookie must answer it
	sent bool

	cookie mac16
	given  time.Time
}

// sign writes both MACs.
func (s *signer) sign(msg []byte, now time.Time) {
	body, first, second := macs(msg)
	s.last, s.sent = keyedMAC(s.keys.first[:], body), true
	copy(first, s.last[:])
	clear(second)
	if !s.given.IsZero() && now.Sub(s.given) < cookieLife {
		m := keyedMAC(s.cookie[:], body, first)
		copy(second, m[:])
	}
}

// accept takes a cookie reply and says whether it was one to our last message.
func (s *signer) accept(msg []byte, now time.Time) bool {
	if !s.sent {
		return false
	}
	x, err := chacha20poly1305.NewX(s.keys.cookie[:])
	if err != nil {
		return false
	}
	plain, err := x.Open(nil, msg[cookieNonce:cookieSealed], msg[cookieSealed:], s.last[:])
	if err != nil {
		return false
	}
	s.cookie, s.given, s.sent = mac16(plain), now, false
	return true
}
