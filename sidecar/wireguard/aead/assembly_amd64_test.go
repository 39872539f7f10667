//go:build gc && !purego

package aead

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"math/bits"
	"strings"
	"testing"
)

// chachaBlock is ChaCha20's block function as RFC 8439 section 2.3 writes it down.
func chachaBlock(key [keySize]byte, nonce [nonceSize]byte, counter uint32) (out [64]byte) {
	var start [16]uint32
	copy(start[:], []uint32{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574})
	for i := range 8 {
		start[4+i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	start[12] = counter
	for i := range 3 {
		start[13+i] = binary.LittleEndian.Uint32(nonce[4*i:])
	}
	x := start
	quarter := func(a, b, c, d int) {
		x[a] += x[b]
		x[d] = bits.RotateLeft32(x[d]^x[a], 16)
		x[c] += x[d]
		x[b] = bits.RotateLeft32(x[b]^x[c], 12)
		x[a] += x[b]
		x[d] = bits.RotateLeft32(x[d]^x[a], 8)
		x[c] += x[d]
		x[b] = bits.RotateLeft32(x[b]^x[c], 7)
	}
	for range 10 {
		for i := range 4 {
			quarter(i, 4+i, 8+i, 12+i)
		}
		for i := range 4 {
			quarter(i, 4+(i+1)%4, 8+(i+2)%4, 12+(i+3)%4)
		}
	}
	for i := range x {
		binary.LittleEndian.PutUint32(out[4*i:], x[i]+start[i])
	}
	return out
}

// TestChaChaBlocks is section 2.3.2 and appendix A.1 of RFC 8439, for what the other tests hold the assembly to and for the assembly.
func TestChaChaBlocks(t *testing.T) {
	needAssembly(t)
	for _, c := range []struct {
		key, nonce, block string
		counter           uint32
	}{
		{"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "000000090000004a00000000",
			"10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4ed2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e", 1},
		{strings.Repeat("00", 32), "000000000000000000000000",
			"76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586", 0},
		{strings.Repeat("00", 32), "000000000000000000000000",
			"9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f", 1},
		{strings.Repeat("00", 31) + "01", "000000000000000000000000",
			"3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0", 1},
		{"00ff" + strings.Repeat("00", 30), "000000000000000000000000",
			"72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096", 2},
		{strings.Repeat("00", 32), "000000000000000000000002",
			"c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c78a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d", 0},
	} {
		key, nonce, want := [keySize]byte(unhex(t, c.key)), [nonceSize]byte(unhex(t, c.nonce)), unhex(t, c.block)
		if got := chachaBlock(key, nonce, c.counter); !bytes.Equal(got[:], want) {
			t.Errorf("the reference's block is %x, want %x", got, want)
		}
		var got [64]byte
		xor(&got[0], &got[0], len(got), &key, &nonce, c.counter)
		if !bytes.Equal(got[:], want) {
			t.Errorf("our block is %x, want %x", got, want)
		}
	}
}

// TestChaChaCounters counts over 32 bits within a message, at each place of a pass, and makes messages of every length.
func TestChaChaCounters(t *testing.T) {
	needAssembly(t)
	s := newSource(30)
	key, nonce := [keySize]byte(s.bytes(keySize)), [nonceSize]byte(s.bytes(nonceSize))
	for n := range 3300 {
		counter := uint32(s.intN(60)) - 50
		if n%2 == 0 {
			counter = uint32(s.Uint64())
		}
		msg := s.bytes(n)
		want := bytes.Clone(msg)
		for i := range want {
			if i%64 == 0 {
				block := chachaBlock(key, nonce, counter+uint32(i/64))
				for j := i; j < min(n, i+64); j++ {
					want[j] ^= block[j-i]
				}
			}
		}
		got := make([]byte, n+1)
		msg = append(msg, 0)
		xor(&got[0], &msg[0], n, &key, &nonce, counter)
		if !bytes.Equal(got[:n], want) || got[n] != 0 {
			t.Fatalf("%d bytes from block %#x: wrong", n, counter)
		}
	}
}

var prime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 130), big.NewInt(5))

// number is the little-endian number of b.
func number(b []byte) *big.Int {
	r := make([]byte, len(b))
	for i := range b {
		r[len(b)-1-i] = b[i]
	}
	return new(big.Int).SetBytes(r)
}

// low128 is the number modulo 2^128, in 16 bytes.
func low128(x *big.Int) (out [16]byte) {
	for i := range out {
		out[i] = byte(new(big.Int).Rsh(x, uint(8*i)).Uint64())
	}
	return out
}

func clamped(key *[keySize]byte) *big.Int {
	r := number(key[:16])
	mask, _ := new(big.Int).SetString("0ffffffc0ffffffc0ffffffc0fffffff", 16)
	return r.And(r, mask)
}

// polynomial is Poly1305's value before s is added.
func polynomial(msg []byte, key *[keySize]byte) *big.Int {
	h, r := new(big.Int), clamped(key)
	for len(msg) > 0 {
		n := min(16, len(msg))
		h.Add(h, number(append(bytes.Clone(msg[:n]), 1)))
		h.Mod(h.Mul(h, r), prime)
		msg = msg[n:]
	}
	return h
}

// poly1305 is RFC 8439 section 2.5 in big numbers.
func poly1305(msg []byte, key *[keySize]byte) [16]byte {
	h := polynomial(msg, key)
	return low128(h.Add(h, number(key[16:])))
}

// ourPoly is the assembly's tag of whole blocks, at least one.
func ourPoly(blocks []byte, key *[keySize]byte) (tag [16]byte) {
	n := len(blocks) - 16
	last := [2]uint64{binary.LittleEndian.Uint64(blocks[n:]), binary.LittleEndian.Uint64(blocks[n+8:])}
	poly(&tag, &blocks[0], n, &last, key)
	return tag
}

// TestPolyRFC8439 is section 2.5.2 and appendix A.3. Messages that do not end with a whole block show the reference right, as the
// assembly gets none: the cipher pads them.
func TestPolyRFC8439(t *testing.T) {
	needAssembly(t)
	zeros, ones := strings.Repeat("00", 16), strings.Repeat("ff", 16)
	text := "Any submission to the IETF intended by the Contributor for publication as all or part of an IETF Internet-Draft or RFC and " +
		"any statement made within the context of an IETF activity is considered an \"IETF Contribution\". Such statements include oral " +
		"statements in IETF sessions, as well as written and electronic communications made at any time or place, which are addressed to"
	ietf := hexOf(text)
	verse := hexOf("'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\nAll mimsy were the borogoves,\nAnd the mome raths outgrabe.")
	for _, c := range []struct{ name, r, s, msg, tag string }{
		{"2.5.2", "85d6be7857556d337f4452fe42d506a8", "0103808afb0db2fd4abff6af4149f51b", hexOf("Cryptographic Forum Research Group"), "a8061dc1305136c6c22b8baf0c0127a9"},
		{"#1 all zero", zeros, zeros, strings.Repeat("00", 64), zeros},
		{"#2 r is zero", zeros, "36e5f6b5c5e06070f0efca96227a863e", ietf, "36e5f6b5c5e06070f0efca96227a863e"},
		{"#3 s is zero", "36e5f6b5c5e06070f0efca96227a863e", zeros, ietf, "f3477e7cd95417af89a6b8794c310cf0"},
		{"#4", "1c9240a5eb55d38af333888604f6b5f0", "473917c1402b80099dca5cbc207075c0", verse, "4541669a7eaaee61e708dc7cbcc5eb62"},
		{"#5 h reaches p", "02" + zeros[2:], zeros, ones, "03" + zeros[2:]},
		{"#6 adding s overflows", "02" + zeros[2:], ones, "02" + zeros[2:], "03" + zeros[2:]},
		{"#7 all bits of a block", "01" + zeros[2:], zeros, ones + "f0" + ones[2:] + "11" + zeros[2:], "05" + zeros[2:]},
		{"#8 h is p", "01" + zeros[2:], zeros, ones + "fb" + strings.Repeat("fe", 15) + strings.Repeat("01", 16), zeros},
		{"#9 h is just below p", "02" + zeros[2:], zeros, "fd" + ones[2:], "fa" + ones[2:]},
		{"#10 carry between words", "01000000000000000400000000000000", zeros,
			"e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000000000000000000000000000000000001" + zeros[2:], "14000000000000005500000000000000"},
		{"#11 the same, one block less", "01000000000000000400000000000000", zeros,
			"e33594d7505e43b900000000000000003394d7505e4379cd010000000000000000000000000000000000000000000000", "13" + zeros[2:]},
	} {
		key, msg, want := [keySize]byte(unhex(t, c.r+c.s)), unhex(t, c.msg), [16]byte(unhex(t, c.tag))
		if got := poly1305(msg, &key); got != want {
			t.Errorf("%s: the reference's tag is %x, want %x", c.name, got, want)
		}
		if len(msg)%16 != 0 {
			continue
		}
		if got := ourPoly(msg, &key); got != want {
			t.Errorf("%s: our tag is %x, want %x", c.name, got, want)
		}
	}
}

func hexOf(s string) string { return hex.EncodeToString([]byte(s)) }

// TestPolyExtremes has keys and messages whose limbs are as large as can be, as small, and single bits of them, for as many blocks as
// go every way through the assembly.
func TestPolyExtremes(t *testing.T) {
	needAssembly(t)
	s := newSource(31)
	half := func() []byte {
		switch s.intN(6) {
		case 0:
			return make([]byte, 16)
		case 1:
			return bytes.Repeat([]byte{0xff}, 16)
		case 2:
			b := make([]byte, 16)
			b[s.intN(16)] = 1 << s.intN(8)
			return b
		case 3:
			b := bytes.Repeat([]byte{0xff}, 16)
			b[s.intN(16)] ^= 1 << s.intN(8)
			return b
		case 4:
			b := low128(prime) // -5 and what is near it
			b[0] += byte(s.intN(12))
			return b[:]
		}
		return s.bytes(16)
	}
	for i := range 40_000 {
		key := [keySize]byte(append(half(), half()...))
		pattern, blocks := half(), make([]byte, 16*(1+i%45))
		for j := range len(blocks) / 16 {
			if i%3 == 0 {
				pattern = half()
			}
			copy(blocks[16*j:], pattern)
		}
		if got, want := ourPoly(blocks, &key), poly1305(blocks, &key); got != want {
			t.Fatalf("key %x, message %x: tag %x, want %x", key, blocks, got, want)
		}
	}
}

// TestPolyWraps aims the polynomial's value at the ends of what a limb or the prime holds, by choosing the last block so.
func TestPolyWraps(t *testing.T) {
	needAssembly(t)
	s := newSource(32)
	var targets []*big.Int
	for _, bit := range []uint{0, 42, 44, 63, 64, 86, 88, 127, 128, 129, 130} {
		for d := int64(-7); d <= 7; d++ {
			x := new(big.Int).Lsh(big.NewInt(1), bit)
			targets = append(targets, x.Mod(x.Add(x, big.NewInt(d)), prime))
		}
	}
	top := new(big.Int).Lsh(big.NewInt(1), 128)
	for _, target := range targets {
		for n := 2; n <= 40; n++ {
			key := [keySize]byte(s.bytes(keySize))
			inverse := new(big.Int).ModInverse(clamped(&key), prime)
			blocks := s.bytes(16 * n)
			for {
				// What the last block must be, with its bit on top: (value so far + block)·r = target.
				copy(blocks, s.bytes(16))
				x := new(big.Int).Mul(target, inverse)
				x.Sub(x, polynomial(blocks[:16*(n-1)], &key))
				x.Sub(x.Mod(x, prime), top)
				if x.Sign() >= 0 && x.Cmp(top) < 0 {
					b := low128(x)
					copy(blocks[16*(n-1):], b[:])
					break
				}
			}
			if polynomial(blocks, &key).Cmp(target) != 0 {
				t.Fatalf("%d blocks: missed %x", n, target)
			}
			if got, want := ourPoly(blocks, &key), poly1305(blocks, &key); got != want {
				t.Fatalf("%d blocks to %x: tag %x, want %x", n, target, got, want)
			}
		}
	}
}
