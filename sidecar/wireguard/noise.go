package wireguard

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/tenantwire/tenantwire/sidecar/wireguard/aead"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Noise_IKpsk2 as in section 5.4 of the WireGuard paper. A noise is one handshake in progress, on either side: the chaining
// key and the transcript's hash. Its methods are the steps that messages are made of; handshake.go puts them in order.

type (
	hash32    [blake2s.Size]byte
	timestamp [12]byte // TAI64N, big endian: later is greater
)

type noise struct {
	chain, hash hash32
}

var initialNoise = func() (n noise) {
	n.chain = blake2s.Sum256([]byte("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"))
	n.hash = n.chain
	n.mixHash([]byte("WireGuard v1 zx2c4 Jason@zx2c4.com"))
	return n
}()

// startNoise begins a handshake with the responder whose static key is given.
func startNoise(responder key.Public) noise {
	n := initialNoise
	n.mixHash(responder[:])
	return n
}

func (n *noise) mixHash(data []byte) {
	h := newHash()
	h.Write(n.hash[:])
	h.Write(data)
	h.Sum(n.hash[:0])
}

// mixKey mixes a secret into the chain.
func (n *noise) mixKey(secret []byte) { n.chain, _, _ = derive(n.chain[:], secret) }

// mixKeyFor also derives a key for the next sealed field.
func (n *noise) mixKeyFor(secret []byte) (k hash32) {
	n.chain, k, _ = derive(n.chain[:], secret)
	return k
}

// mixPreshared mixes in the preshared key, all zero if there is none.
func (n *noise) mixPreshared(psk []byte) (k hash32) {
	var temp hash32
	n.chain, temp, k = derive(n.chain[:], psk)
	n.mixHash(temp[:])
	return k
}

// mixEphemeral mixes in an ephemeral public key, as it is sent in the clear.
func (n *noise) mixEphemeral(pub []byte) {
	n.mixKey(pub)
	n.mixHash(pub)
}

// seal appends plain to dst, encrypted under a key that is used once and bound to the transcript.
func (n *noise) seal(dst []byte, k hash32, plain []byte) []byte {
	out := handshakeCipher(k).Seal(dst, zeroNonce[:], plain, n.hash[:])
	n.mixHash(out[len(dst):])
	return out
}

// open is seal's inverse.
func (n *noise) open(k hash32, sealed []byte) ([]byte, error) {
	out, err := handshakeCipher(k).Open(nil, zeroNonce[:], sealed, n.hash[:])
	if err != nil {
		return nil, errAuthentication
	}
	n.mixHash(sealed)
	return out, nil
}

// keys ends the handshake: what the initiator sends with, and what it receives with.
func (n *noise) keys() (sends, receives hash32) {
	sends, receives, _ = derive(n.chain[:], nil)
	return sends, receives
}

var (
	zeroNonce         [chacha20poly1305.NonceSize]byte
	errAuthentication = errors.New("authentication failed")
)

// handshakeCipher is for the few encryptions of a handshake, which bind additional data.
func handshakeCipher(k hash32) cipher.AEAD { return mustCipher(chacha20poly1305.New(k[:])) }

// transportCipher is for a session's packets, by far the most that is encrypted.
func transportCipher(k hash32) cipher.AEAD { return mustCipher(aead.New(k[:])) }

func mustCipher(a cipher.AEAD, err error) cipher.AEAD {
	if err != nil {
		panic("wireguard: a 32-byte key was refused: " + err.Error()) // unreachable: the length is fixed
	}
	return a
}

func newHash() hash.Hash {
	h, err := blake2s.New256(nil)
	if err != nil {
		panic("wireguard: BLAKE2s: " + err.Error()) // unreachable without a key
	}
	return h
}

// derive is HKDF with BLAKE2s: three outputs, of which callers take what they need.
func derive(salt, input []byte) (a, b, c hash32) {
	secret := mac(salt, input)
	a = mac(secret[:], []byte{1})
	b = mac(secret[:], a[:], []byte{2})
	c = mac(secret[:], b[:], []byte{3})
	return a, b, c
}

func mac(k []byte, parts ...[]byte) (out hash32) {
	h := hmac.New(newHash, k)
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(out[:0])
	return out
}

// shared is the Diffie-Hellman secret. It is an error if the other key is of low order, which would make it all zero.
func shared(own *ecdh.PrivateKey, other []byte) ([]byte, error) {
	p, err := ecdh.X25519().NewPublicKey(other)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	s, err := own.ECDH(p)
	if err != nil {
		return nil, fmt.Errorf("key exchange: %w", err)
	}
	return s, nil
}

func newEphemeral() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic("wireguard: generate key: " + err.Error()) // unreachable: crypto/rand aborts the program instead
	}
	return k
}

// newTimestamp cuts the time to 16 ms, so that it tells nobody more of our clock than it has to.
func newTimestamp(now time.Time) (t timestamp) {
	const tai64 = 0x400000000000000a
	binary.BigEndian.PutUint64(t[:], tai64+uint64(now.Unix()))
	binary.BigEndian.PutUint32(t[8:], uint32(now.Nanosecond())&^(1<<24-1))
	return t
}
