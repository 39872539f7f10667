// Package noise makes WireGuard handshake initiations (Noise_IKpsk2, message 1) for many peers, to see how many a device
// answers. It makes them before the clock runs, and reads of an answer only that it is one and whose.
package noise

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	construction   = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	identifier     = "WireGuard v1 zx2c4 Jason@zx2c4.com"
	labelMAC1      = "mac1----"
	initiationSize = 148
	responseSize   = 92
	cookieSize     = 64
)

// Kind is what a message is.
type Kind int

// Kinds of messages that may come back.
const (
	Other Kind = iota
	Response
	Cookie // the device says that it is overloaded
)

// Initiator is one peer of the device under test.
type Initiator struct {
	static    *ecdh.PrivateKey
	responder *ecdh.PublicKey
	shared    []byte // static-static, the same for every handshake
}

// NewInitiator takes the private key of a peer and the public key of the device.
func NewInitiator(private, responder []byte) (*Initiator, error) {
	s, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	r, err := ecdh.X25519().NewPublicKey(responder)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	i := &Initiator{static: s, responder: r}
	if i.shared, err = s.ECDH(r); err != nil {
		return nil, err
	}
	return i, nil
}

// Initiation makes a message whose sender index is sender. A device takes only messages with a later time than the last, and
// rounds times down to 2^24 ns.
func (i *Initiator) Initiation(sender uint32, at time.Time) ([]byte, error) {
	e, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	es, err := e.ECDH(i.responder)
	if err != nil {
		return nil, err
	}
	s := start(i.responder.Bytes())
	m := make([]byte, 8, initiationSize)
	m[0] = 1
	binary.LittleEndian.PutUint32(m[4:], sender)
	m = append(m, e.PublicKey().Bytes()...)
	s.mixHash(m[8:])
	s.mixKey(e.PublicKey().Bytes())
	m = append(m, s.seal(s.mixKeyed(es), i.static.PublicKey().Bytes())...)
	m = append(m, s.seal(s.mixKeyed(i.shared), timestamp(at))...)
	return append(append(m, mac1(i.responder.Bytes(), m)...), make([]byte, 16)...), nil
}

// Parse says what a message is, and for a response whose handshake it answers.
func Parse(b []byte) (Kind, uint32) {
	switch {
	case len(b) == responseSize && b[0] == 2:
		return Response, binary.LittleEndian.Uint32(b[8:])
	case len(b) == cookieSize && b[0] == 3:
		return Cookie, binary.LittleEndian.Uint32(b[4:])
	}
	return Other, 0
}

// state is the handshake's chaining key and hash.
type state struct{ chain, hash [blake2s.Size]byte }

func start(responder []byte) *state {
	s := &state{chain: blake2s.Sum256([]byte(construction))}
	s.hash = blake2s.Sum256(append(s.chain[:], identifier...))
	s.mixHash(responder)
	return s
}

func (s *state) mixHash(b []byte) { s.hash = blake2s.Sum256(append(s.hash[:], b...)) }

// mixKey takes b into the chain.
func (s *state) mixKey(b []byte) {
	copy(s.chain[:], mac(mac(s.chain[:], b), []byte{1}))
}

// mixKeyed takes b into the chain and gives the key that follows from it.
func (s *state) mixKeyed(b []byte) []byte {
	prk := mac(s.chain[:], b)
	first := mac(prk, []byte{1})
	copy(s.chain[:], first)
	return mac(prk, append(first, 2))
}

// seal encrypts with a key that is used once, and takes the result into the hash.
func (s *state) seal(key, plain []byte) []byte {
	a, err := chacha20poly1305.New(key)
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	out := a.Seal(nil, make([]byte, chacha20poly1305.NonceSize), plain, s.hash[:])
	s.mixHash(out)
	return out
}

func mac(key, b []byte) []byte {
	h := hmac.New(func() hash.Hash { h, _ := blake2s.New256(nil); return h }, key)
	h.Write(b)
	return h.Sum(nil)
}

func mac1(responder, message []byte) []byte {
	key := blake2s.Sum256(append([]byte(labelMAC1), responder...))
	h, err := blake2s.New128(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	h.Write(message)
	return h.Sum(nil)
}

// timestamp is TAI64N.
func timestamp(at time.Time) []byte {
	b := binary.BigEndian.AppendUint64(nil, 0x400000000000000a+uint64(at.Unix()))
	return binary.BigEndian.AppendUint32(b, uint32(at.Nanosecond()))
}
