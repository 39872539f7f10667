// Package key holds WireGuard's three kinds of key as types that cannot be mixed up and, where they are secret, cannot be
// printed: every formatting verb, JSON form and slog value of a Private or Preshared key reads "[redacted]".
package key

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Size is the length of every key in bytes.
const Size = 32

const redacted = "[redacted]"

// Public is a Curve25519 public key; it names a WireGuard peer and is safe to print and compare.
type Public [Size]byte

// Private is a clamped Curve25519 private key. It never leaves the process through fmt, JSON or slog.
//
// The bytes stand behind a pointer because fmt prints what it finds in a struct's unexported fields without asking the type:
// of a pointer it prints the address. The bytes never change once the key is made; compare with Equal.
type Private struct{ p **[Size]byte }

// Preshared is a symmetric key mixed into the handshake of one pair of peers. The zero value means none.
type Preshared struct{ p **[Size]byte }

// NewPrivate makes a private key from the system's random source.
func NewPrivate() Private {
	k := Private{hide(new([Size]byte))}
	_, _ = rand.Read(k.bytes()) // never fails: crypto/rand aborts the program instead
	k.clamp()
	return k
}

// NewPreshared makes a preshared key from the system's random source.
func NewPreshared() Preshared {
	k := Preshared{hide(new([Size]byte))}
	_, _ = rand.Read(k.bytes())
	return k
}

// ParsePublic reads the base64 form that `wg` prints. The all-zero key is refused: no peer can own it.
func ParsePublic(s string) (Public, error) {
	b, err := parse(s)
	if err != nil {
		return Public{}, fmt.Errorf("public key %q: %w", s, err)
	}
	if b == ([Size]byte{}) {
		return Public{}, fmt.Errorf("public key %q: all zero", s)
	}
	return Public(b), nil
}

// ParsePrivate reads the base64 form that `wg genkey` prints and clamps it. Its error never quotes the input.
func ParsePrivate(s string) (Private, error) {
	b, err := parse(s)
	if err != nil {
		return Private{}, fmt.Errorf("private key: %w", err)
	}
	if b == ([Size]byte{}) {
		return Private{}, errors.New("private key: all zero")
	}
	k := Private{hide(&b)}
	k.clamp()
	return k, nil
}

// ParsePreshared reads the base64 form that `wg genpsk` prints. Its error never quotes the input.
func ParsePreshared(s string) (Preshared, error) {
	b, err := parse(s)
	if err != nil {
		return Preshared{}, fmt.Errorf("preshared key: %w", err)
	}
	return Preshared{hide(&b)}, nil
}

func parse(s string) (b [Size]byte, err error) {
	s = strings.TrimSpace(s)
	d, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(d) != Size || len(s) != base64.StdEncoding.EncodedLen(Size) { // base64 skips line ends, `wg` does not
		return b, fmt.Errorf("want %d bytes in base64 (44 characters)", Size)
	}
	return [Size]byte(d), nil
}

// clamp fixes the bits that RFC 7748 section 5 fixes, as every WireGuard implementation stores its keys.
func (k Private) clamp() {
	b := k.bytes()
	b[0] &= 248
	b[31] = b[31]&127 | 64
}

// Public derives the public key.
func (k Private) Public() Public {
	return Public(k.ECDH().PublicKey().Bytes())
}

// bytes are the key's, all zero for a zero key. Never change them.
func (k Private) bytes() []byte   { return deref(k.p) }
func (k Preshared) bytes() []byte { return deref(k.p) }

// hide makes what fmt prints as an address under every verb; a single pointer it follows when the verb does not fit.
func hide(p *[Size]byte) **[Size]byte { return &p }

func deref(p **[Size]byte) []byte {
	if p == nil {
		return make([]byte, Size)
	}
	return (*p)[:]
}

// Reveal returns the base64 form for the few places that must hold it: the key file in the pod's memory volume.
func (k Private) Reveal() string { return base64.StdEncoding.EncodeToString(k.bytes()) }

// Hex returns the form WireGuard's configuration protocol takes. Never log it.
func (k Private) Hex() string { return hex.EncodeToString(k.bytes()) }

// ECDH is the key as crypto/ecdh computes with it. Never log it: it does not redact itself.
func (k Private) ECDH() *ecdh.PrivateKey {
	p, err := ecdh.X25519().NewPrivateKey(k.bytes())
	if err != nil {
		panic("key: a 32-byte X25519 key was refused: " + err.Error()) // unreachable: the length is fixed
	}
	return p
}

// IsZero says whether the key is unset.
func (k Private) IsZero() bool { return [Size]byte(k.bytes()) == [Size]byte{} }

// Equal compares in constant time.
func (k Private) Equal(o Private) bool { return subtle.ConstantTimeCompare(k.bytes(), o.bytes()) == 1 }

// Hex returns the form WireGuard's configuration protocol takes. Never log it.
func (k Preshared) Hex() string { return hex.EncodeToString(k.bytes()) }

// Reveal returns the base64 form for the few places that must hold it. Never log it.
func (k Preshared) Reveal() string { return base64.StdEncoding.EncodeToString(k.bytes()) }

// Array is the key itself, all zero if there is none. Never log it.
func (k Preshared) Array() [Size]byte { return [Size]byte(k.bytes()) }

// IsZero says whether there is no preshared key.
func (k Preshared) IsZero() bool { return [Size]byte(k.bytes()) == [Size]byte{} }

// Equal compares in constant time.
func (k Preshared) Equal(o Preshared) bool {
	return subtle.ConstantTimeCompare(k.bytes(), o.bytes()) == 1
}

// String is the base64 form that `wg` prints.
func (k Public) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Hex returns the form WireGuard's configuration protocol takes.
func (k Public) Hex() string { return hex.EncodeToString(k[:]) }

// IsZero says whether the key is unset.
func (k Public) IsZero() bool { return k == Public{} }

// MarshalText is the base64 form; a zero key is the empty text.
func (k Public) MarshalText() ([]byte, error) {
	if k.IsZero() {
		return nil, nil
	}
	return []byte(k.String()), nil
}

// UnmarshalText reads the base64 form; empty text is the zero key.
func (k *Public) UnmarshalText(t []byte) (err error) {
	if len(t) == 0 {
		*k = Public{}
		return nil
	}
	*k, err = ParsePublic(string(t))
	return err
}

// Format redacts the key under every verb.
func (k Private) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String redacts the key.
func (k Private) String() string { return redacted }

// MarshalText redacts the key; a private key has no text form but Reveal.
func (k Private) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue redacts the key.
func (k Private) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format redacts the key under every verb.
func (k Preshared) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String redacts the key.
func (k Preshared) String() string { return redacted }

// MarshalText redacts the key.
func (k Preshared) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue redacts the key.
func (k Preshared) LogValue() slog.Value { return slog.StringValue(redacted) }
