package aead

import (
	"bytes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// source makes the tests' inputs: not secret, and the same each time.
type source struct{ *rand.ChaCha8 }

func newSource(seed byte) source { return source{rand.NewChaCha8([32]byte{seed})} }

func (s source) bytes(n int) []byte {
	b := make([]byte, n)
	_, _ = s.Read(b)
	return b
}

func (s source) intN(n int) int { return int(s.Uint64() % uint64(n)) }

// needAssembly skips a test of the assembly, loudly, where there is none.
func needAssembly(t testing.TB) {
	t.Helper()
	if !supported {
		t.Skip("this CPU or build has no use for the assembly, so it is NOT TESTED here")
	}
}

// pair is ours and the reference, with the same key.
func pair(t testing.TB, key []byte) (ours, reference cipher.AEAD) {
	t.Helper()
	ours, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	if reference, err = chacha20poly1305.New(key); err != nil {
		t.Fatal(err)
	}
	return ours, reference
}

// both runs a test with the assembly and without.
func both(t *testing.T, test func(t *testing.T)) {
	t.Run("assembly", func(t *testing.T) {
		needAssembly(t)
		test(t)
	})
	t.Run("fallback", func(t *testing.T) {
		accelerated = false
		t.Cleanup(func() { accelerated = supported })
		test(t)
	})
}

// same holds ours to the reference for one message: sealing and opening, in place and not, and refusing what was changed.
func same(t testing.TB, s source, key, nonce, msg []byte) {
	t.Helper()
	ours, reference := pair(t, key)
	n := len(msg)
	want := reference.Seal(nil, nonce, msg, nil)
	if got := ours.Seal(nil, nonce, msg, nil); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes: sealed to\n%x, want\n%x", n, got, want)
	}
	if got, err := ours.Open(nil, nonce, want, nil); err != nil || !bytes.Equal(got, msg) {
		t.Fatalf("%d bytes: opened to\n%x, %v, want\n%x", n, got, err, msg)
	}

	buf := append(make([]byte, 0, n+tagSize), msg...)
	if got := ours.Seal(buf[:0], nonce, buf, nil); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes: sealed in place to\n%x, want\n%x", n, got, want)
	}
	buf = buf[:n+tagSize]
	if got, err := ours.Open(buf[:0], nonce, buf, nil); err != nil || !bytes.Equal(got, msg) {
		t.Fatalf("%d bytes: opened in place to\n%x, %v, want\n%x", n, got, err, msg)
	}

	copy(buf, want)
	buf[s.intN(len(buf))] ^= 1 << s.intN(8)
	if got, err := ours.Open(buf[:0], nonce, buf, nil); err == nil || got != nil {
		t.Fatalf("%d bytes: a message with a bit changed was opened", n)
	}
	if !bytes.Equal(buf[:n], make([]byte, n)) {
		t.Fatalf("%d bytes: refused, but not zeroed", n)
	}
}

func TestEveryLength(t *testing.T) {
	both(t, func(t *testing.T) {
		s := newSource(1)
		msg := s.bytes(4200)
		for n := range len(msg) + 1 {
			same(t, s, s.bytes(keySize), s.bytes(nonceSize), msg[:n])
		}
	})
}

func TestLongLengths(t *testing.T) {
	both(t, func(t *testing.T) {
		s := newSource(2)
		msg := s.bytes(70_000)
		for _, n := range []int{8900, maxSize - 1, maxSize, maxSize + 1, len(msg)} {
			same(t, s, s.bytes(keySize), s.bytes(nonceSize), msg[:n])
		}
		for range 300 {
			same(t, s, s.bytes(keySize), s.bytes(nonceSize), msg[:s.intN(len(msg))])
		}
	})
}

// TestAlignments has source and destination begin anywhere in a vector, and nothing beside the destination changes.
func TestAlignments(t *testing.T) {
	needAssembly(t)
	s := newSource(3)
	const most, margin = 1600, 128
	key := s.bytes(keySize)
	ours, reference := pair(t, key)
	from, to, canary := s.bytes(most+2*margin), make([]byte, most+2*margin), s.bytes(most+2*margin)
	for i := range 64 {
		for j := range 64 {
			n, nonce := s.intN(most), s.bytes(nonceSize)
			src := from[margin+i:][:n]
			want := reference.Seal(nil, nonce, src, nil)
			place := to[margin+j:]
			copy(to, canary)
			if got := ours.Seal(place[:0], nonce, src, nil); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes at %d, to %d: sealed wrongly", n, i, j)
			}
			untouched(t, to, canary, margin+j, n+tagSize)

			sealed := append(make([]byte, i, i+len(want)), want...)[i:]
			copy(to, canary)
			if got, err := ours.Open(place[:0], nonce, sealed, nil); err != nil || !bytes.Equal(got, src) {
				t.Fatalf("%d bytes at %d, to %d: opened wrongly: %v", n, i, j, err)
			}
			untouched(t, to, canary, margin+j, n)
		}
	}
}

func untouched(t *testing.T, b, canary []byte, at, n int) {
	t.Helper()
	if !bytes.Equal(b[:at], canary[:at]) || !bytes.Equal(b[at+n:], canary[at+n:]) {
		t.Fatalf("%d bytes at %d: written beside them", n, at)
	}
}

// TestEveryBit changes each bit of some messages, of their tags and of their nonces: none is opened. A shorter or longer one is not
// opened either.
func TestEveryBit(t *testing.T) {
	both(t, func(t *testing.T) {
		s := newSource(4)
		ours, reference := pair(t, s.bytes(keySize))
		for _, n := range []int{0, 1, 16, 63, 112, 128, 300, 1420, 3100} {
			nonce := s.bytes(nonceSize)
			sealed := reference.Seal(nil, nonce, s.bytes(n), nil)
			out := make([]byte, 0, len(sealed))
			refused := func(what string, i int) {
				t.Helper()
				if got, err := ours.Open(out, nonce, sealed, nil); err == nil || got != nil {
					t.Fatalf("%d bytes: opened with bit %d of the %s changed", n, i, what)
				}
			}
			for i := range 8 * len(sealed) {
				sealed[i/8] ^= 1 << (i % 8)
				refused("message", i)
				sealed[i/8] ^= 1 << (i % 8)
			}
			for i := range 8 * len(nonce) {
				nonce[i/8] ^= 1 << (i % 8)
				refused("nonce", i)
				nonce[i/8] ^= 1 << (i % 8)
			}
			for m := range sealed {
				if _, err := ours.Open(out, nonce, sealed[:m], nil); err == nil {
					t.Fatalf("%d bytes: opened cut to %d", n, m)
				}
			}
			if _, err := ours.Open(out, nonce, append(sealed, 0), nil); err == nil {
				t.Fatalf("%d bytes: opened with one more", n)
			}
			if _, err := ours.Open(out, nonce, sealed, nil); err != nil {
				t.Fatalf("%d bytes: not opened unchanged: %v", n, err)
			}
		}
	})
}

// TestNonces counts as the engine does: the stream's own counter and the message's are in the same row of ChaCha20's state.
func TestNonces(t *testing.T) {
	s := newSource(5)
	key, msg := s.bytes(keySize), s.bytes(200)
	for i := range 64 {
		for _, v := range []byte{1, 0x80, 0xff} {
			nonce := make([]byte, nonceSize)
			nonce[i%nonceSize] = v
			same(t, s, key, nonce, msg)
		}
	}
	same(t, s, key, bytes.Repeat([]byte{0xff}, nonceSize), msg)
}

// TestRFC8439 is section 2.8.2 and appendix A.5: those have additional data, so they show that it is not left out.
func TestRFC8439(t *testing.T) {
	both(t, func(t *testing.T) {
		key := make([]byte, keySize)
		for i := range key {
			key[i] = byte(0x80 + i)
		}
		ours, _ := pair(t, key)
		msg := "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
		got := ours.Seal(nil, unhex(t, "070000004041424344454647"), []byte(msg), unhex(t, "50515253c0c1c2c3c4c5c6c7"))
		if want := unhex(t, "1ae10b594f09e26a7e902ecbd0600691"); !bytes.Equal(got[len(msg):], want) {
			t.Errorf("section 2.8.2: tag %x, want %x", got[len(msg):], want)
		}
		ours, _ = pair(t, unhex(t, "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"))
		sealed := unhex(t, "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100"+
			"d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c8559797a06ef4f0ef61c186324e2b350638"+
			"3606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf4534d7f83fa115"+
			"5b0047718cbc546a0d072b04b3564eea1b422273f548271a0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10"+
			"49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38")
		plain, err := ours.Open(nil, unhex(t, "000000000102030405060708"), sealed, unhex(t, "f33388860000000000004e91"))
		if err != nil || !bytes.HasPrefix(plain, []byte("Internet-Drafts are draft documents")) {
			t.Errorf("appendix A.5: %q, %v", plain, err)
		}
	})
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAdditionalData: nobody's is left out, whatever the length.
func TestAdditionalData(t *testing.T) {
	s := newSource(6)
	for n := range 200 {
		ours, reference := pair(t, s.bytes(keySize))
		nonce, msg, ad := s.bytes(nonceSize), s.bytes(n), s.bytes(1+n%40)
		want := reference.Seal(nil, nonce, msg, ad)
		if got := ours.Seal(nil, nonce, msg, ad); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: sealed wrongly", n)
		}
		if got, err := ours.Open(nil, nonce, want, ad); err != nil || !bytes.Equal(got, msg) {
			t.Fatalf("%d bytes: opened wrongly: %v", n, err)
		}
		if _, err := ours.Open(nil, nonce, want, nil); err == nil {
			t.Fatalf("%d bytes: opened without the additional data", n)
		}
	}
}

// TestDestination: what stands before the output is kept, with room for it and without.
func TestDestination(t *testing.T) {
	both(t, func(t *testing.T) {
		s := newSource(7)
		ours, reference := pair(t, s.bytes(keySize))
		nonce, msg, before := s.bytes(nonceSize), s.bytes(100), s.bytes(33)
		want := reference.Seal(before[:len(before):len(before)], nonce, msg, nil)
		for _, room := range []int{0, 50, 116, 200} {
			dst := append(make([]byte, 0, len(before)+room), before...)
			if got := ours.Seal(dst, nonce, msg, nil); !bytes.Equal(got, want) {
				t.Errorf("sealed wrongly with room for %d bytes", room)
			}
			dst = append(make([]byte, 0, len(before)+room), before...)
			got, err := ours.Open(dst, nonce, want[len(before):], nil)
			if err != nil || !bytes.Equal(got, append(before[:len(before):len(before)], msg...)) {
				t.Errorf("opened wrongly with room for %d bytes: %v", room, err)
			}
		}
	})
}

// TestMisuse panics, or returns an error, where the reference does.
func TestMisuse(t *testing.T) {
	both(t, func(t *testing.T) {
		for _, n := range []int{0, 31, 33} {
			if _, err := New(make([]byte, n)); err == nil {
				t.Errorf("a key of %d bytes was taken", n)
			}
		}
		ours, reference := pair(t, make([]byte, keySize))
		if ours.NonceSize() != reference.NonceSize() || ours.Overhead() != reference.Overhead() {
			t.Errorf("nonces of %d bytes and tags of %d", ours.NonceSize(), ours.Overhead())
		}
		nonce, buf := make([]byte, nonceSize), make([]byte, 300)
		for name, do := range map[string]func(cipher.AEAD){
			"seal with a short nonce":       func(a cipher.AEAD) { a.Seal(nil, nonce[:8], buf, nil) },
			"open with a short nonce":       func(a cipher.AEAD) { _, _ = a.Open(nil, nonce[:8], buf, nil) },
			"seal over what is yet to read": func(a cipher.AEAD) { a.Seal(buf[1:1], nonce, buf[:200], nil) },
			"seal behind what is yet read":  func(a cipher.AEAD) { a.Seal(buf[:0], nonce, buf[1:200], nil) },
			"open over what is yet to read": func(a cipher.AEAD) { _, _ = a.Open(buf[1:1], nonce, buf[:200], nil) },
			"open behind what is yet read":  func(a cipher.AEAD) { _, _ = a.Open(buf[:0], nonce, buf[1:200], nil) },
		} {
			if !panics(reference, do) || !panics(ours, do) {
				t.Errorf("%s: no panic", name)
			}
		}
		for name, do := range map[string]func(cipher.AEAD){
			"seal beside":       func(a cipher.AEAD) { a.Seal(buf[:0], nonce, buf[116:216], nil) },
			"seal before":       func(a cipher.AEAD) { a.Seal(buf[100:100], nonce, buf[:100], nil) },
			"open over the tag": func(a cipher.AEAD) { _, _ = a.Open(buf[100:100], nonce, buf[:116], nil) },
		} {
			if panics(reference, do) || panics(ours, do) {
				t.Errorf("%s: panic", name)
			}
		}
	})
}

func panics(a cipher.AEAD, do func(cipher.AEAD)) (did bool) {
	defer func() { did = recover() != nil }()
	do(a)
	return false
}

// TestConcurrentUse shares one cipher among goroutines, as the engine's readers and senders do.
func TestConcurrentUse(t *testing.T) {
	both(t, func(t *testing.T) {
		ours, reference := pair(t, newSource(8).bytes(keySize))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				s := newSource(byte(10 + i))
				for range 500 {
					nonce, msg := s.bytes(nonceSize), s.bytes(s.intN(3000))
					want := reference.Seal(nil, nonce, msg, nil)
					if got := ours.Seal(nil, nonce, msg, nil); !bytes.Equal(got, want) {
						t.Errorf("%d bytes: sealed wrongly", len(msg))
					}
					if got, err := ours.Open(want[:0], nonce, want, nil); err != nil || !bytes.Equal(got, msg) {
						t.Errorf("%d bytes: opened wrongly: %v", len(msg), err)
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestKeyIsNotPrinted formats a cipher, and structs that have one, with every verb there is.
func TestKeyIsNotPrinted(t *testing.T) {
	key := bytes.Repeat([]byte("K"), keySize)
	ours, _ := pair(t, key)
	type holder struct{ sends cipher.AEAD }
	type exported struct{ Sends cipher.AEAD }
	for verb := 'A'; verb <= 'z'; verb++ {
		for _, flag := range []string{"", "+", "#", " ", "-", "0"} {
			for _, v := range []any{ours, &ours, holder{ours}, &holder{ours}, exported{ours}, []cipher.AEAD{ours}, map[int]any{1: holder{ours}}} {
				out := strings.ToLower(fmt.Sprintf("%"+flag+string(verb), v))
				for _, leak := range []string{"kkk", "75 75", "4b4b", "0x4b", "4b 4b", "1001011 1001011", "113 113", "'k'", "u+004b"} {
					if strings.Contains(out, leak) {
						t.Errorf("%%%s%c of %T prints the key: %s", flag, verb, v, out)
					}
				}
			}
		}
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "cipher", ours)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cipher", ours)
	if strings.Contains(log.String(), "KKK") || strings.Contains(log.String(), "75,75") || strings.Contains(log.String(), "75 75") {
		t.Errorf("slog prints the key: %s", &log)
	}
}

// TestNoGarbage is of the assembly: what falls back makes as much as the reference makes.
func TestNoGarbage(t *testing.T) {
	needAssembly(t)
	ours, _ := pair(t, make([]byte, keySize))
	for _, n := range []int{0, 64, 1420, 8900} {
		var nonce [nonceSize]byte
		buf := make([]byte, n, n+tagSize)
		if got := testing.AllocsPerRun(100, func() {
			sealed := ours.Seal(buf[:0], nonce[:], buf, nil)
			if _, err := ours.Open(sealed[:0], nonce[:], sealed, nil); err != nil {
				t.Fatal(err)
			}
			_, _ = ours.Open(sealed[:0], nonce[:], sealed, nil) // which is not authentic now
		}); got != 0 {
			t.Errorf("%d bytes: %v allocations", n, got)
		}
	}
}

// FuzzAgainstReference holds ours to x/crypto for whatever is found to go other ways through the code. The tag is the fuzzer's too.
func FuzzAgainstReference(f *testing.F) {
	s := newSource(9)
	for _, n := range []int{0, 1, 15, 16, 112, 113, 192, 193, 448, 960, 1472, 1473, 3008, 3009} {
		f.Add(s.bytes(keySize), s.bytes(nonceSize), s.bytes(n), byte(n), byte(n/2))
	}
	f.Fuzz(func(t *testing.T, key, nonce, msg []byte, from, to byte) {
		key, nonce = append(key, make([]byte, keySize)...)[:keySize], append(nonce, make([]byte, nonceSize)...)[:nonceSize]
		same(t, s, key, nonce, msg)
		ours, reference := pair(t, key)
		src := append(make([]byte, from), msg...)[from:]
		dst := make([]byte, int(to), int(to)+len(msg)+tagSize)
		if got, want := ours.Seal(dst, nonce, src, nil)[to:], reference.Seal(nil, nonce, src, nil); !bytes.Equal(got, want) {
			t.Errorf("sealed to %x, want %x", got, want)
		}
		got, err := ours.Open(dst, nonce, src, nil)
		want, wantErr := reference.Open(dst[:to:to], nonce, src, nil)
		if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) {
			t.Errorf("opened to %x, %v, want %x, %v", got, err, want, wantErr)
		}
	})
}
