// Package aead is ChaCha20-Poly1305 (RFC 8439) for WireGuard's transport messages: the cipher that most of a packet's time goes to.
//
// On a CPU with AVX-512 (F, BW, DQ, VL, IFMA, VBMI2: Intel from Ice Lake, AMD from Zen 4) a message without additional data goes
// through our assembly, which takes a third of the time of golang.org/x/crypto's for a full packet; everything else goes there. The
// two give the same bytes, so whoever has one need not know which.
//
// The assembly is written by internal/gen (go generate), where it is also explained.
package aead

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	keySize   = chacha20poly1305.KeySize
	nonceSize = chacha20poly1305.NonceSize
	tagSize   = chacha20poly1305.Overhead

	// maxSize is the longest message, in bytes, that our assembly gets: what UDP can carry, and more. The runtime cannot stop a
	// goroutine in there, so it must not last.
	maxSize = 64 << 10
)

var errOpen = errors.New("aead: message authentication failed")

// accelerated says whether New's ciphers use the assembly. Tests turn it off.
var accelerated = supported

// New returns ChaCha20-Poly1305 with a key of 32 bytes, nonces of 12 and tags of 16. It keeps the contract of chacha20poly1305.New: it
// works in place (dst = buf[:0]), panics if buffers overlap otherwise or a nonce is of another length, and may be used by several
// goroutines at once. Nothing is allocated if dst has the room. Formatting it shows nothing of the key.
//
// A message is authenticated before any of it is decrypted. If it is not authentic, what would have been the plaintext's place is
// zeroed, which in place destroys the ciphertext.
func New(key []byte) (cipher.AEAD, error) {
	x, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	k := &keyed{key: [keySize]byte(key), other: x, accelerated: accelerated}
	return transport{&k}, nil
}

// transport hides its key behind two pointers: of one, some verbs of fmt print what it points to.
type transport struct{ k **keyed }

// keyed is what a transport is made of. It never changes.
type keyed struct {
	key         [keySize]byte
	other       cipher.AEAD
	accelerated bool
}

// Format implements fmt.Formatter: under every verb there is nothing of the key.
func (transport) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// NonceSize implements cipher.AEAD: 12 bytes.
func (transport) NonceSize() int { return nonceSize }

// Overhead implements cipher.AEAD: 16 bytes.
func (transport) Overhead() int { return tagSize }

// Seal implements cipher.AEAD.
func (t transport) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	k := *t.k
	if !k.accelerated || len(additionalData) > 0 || len(plaintext) > maxSize || len(nonce) != nonceSize {
		return k.other.Seal(dst, nonce, plaintext, additionalData)
	}
	whole, out := extend(dst, len(plaintext)+tagSize)
	if overlapInexactly(out, plaintext) {
		panic("aead: invalid buffer overlap of output and input")
	}
	seal(unsafe.SliceData(out), unsafe.SliceData(plaintext), len(plaintext), &k.key, (*[nonceSize]byte)(nonce))
	return whole
}

// Open implements cipher.AEAD.
func (t transport) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	k := *t.k
	n := len(ciphertext) - tagSize
	if !k.accelerated || len(additionalData) > 0 || n < 0 || n > maxSize || len(nonce) != nonceSize {
		return k.other.Open(dst, nonce, ciphertext, additionalData)
	}
	whole, out := extend(dst, n)
	if overlapInexactly(out, ciphertext[:n]) {
		panic("aead: invalid buffer overlap of output and input")
	}
	if !open(unsafe.SliceData(out), unsafe.SliceData(ciphertext), n, &k.key, (*[nonceSize]byte)(nonce)) {
		clear(out)
		return nil, errOpen
	}
	return whole, nil
}

// extend returns b with n bytes more, in its own room if there is enough, and those n bytes.
func extend(b []byte, n int) (whole, more []byte) {
	size := len(b) + n
	if size <= cap(b) {
		whole = b[:size]
	} else {
		whole = make([]byte, size)
		copy(whole, b)
	}
	return whole, whole[len(b):]
}

// overlapInexactly says whether two slices share memory but do not begin together, so that writing one would change what is still to
// be read of the other.
func overlapInexactly(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 || &a[0] == &b[0] {
		return false
	}
	x, y := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
	return x < y+uintptr(len(b)) && y < x+uintptr(len(a))
}
