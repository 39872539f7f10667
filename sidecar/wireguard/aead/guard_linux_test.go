package aead

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// room is memory between two pages that nobody may touch: who reads or writes a byte beside it ends the test.
func room(t *testing.T, pages int) []byte {
	t.Helper()
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, (pages+2)*page, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal("map memory:", err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error("unmap memory:", err)
		}
	})
	inner := b[page : (pages+1)*page : (pages+1)*page]
	if err := unix.Mprotect(inner, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		t.Fatal("protect memory:", err)
	}
	return inner
}

// TestTouchesNothingBeside has message, output, tag and nonce begin where memory begins, and end where it ends.
func TestTouchesNothingBeside(t *testing.T) {
	needAssembly(t)
	s := newSource(20)
	const most = 3300
	first, second, third := room(t, 1), room(t, 1), room(t, 1)
	ours, reference := pair(t, s.bytes(keySize))
	for n := range most {
		for _, atEnd := range []bool{false, true} {
			part := func(b []byte, n int) []byte {
				if atEnd {
					return b[len(b)-n:]
				}
				return b[:n:n]
			}
			nonce := part(third, nonceSize)
			copy(nonce, s.bytes(nonceSize))
			msg := part(first, n)
			copy(msg, s.bytes(n))
			want := reference.Seal(nil, nonce, msg, nil)
			sealed := part(second, n+tagSize)
			if got := ours.Seal(sealed[:0], nonce, msg, nil); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: sealed wrongly", n)
			}
			if got, err := ours.Open(msg[:0], nonce, sealed, nil); err != nil || len(got) != n {
				t.Fatalf("%d bytes: not opened: %v", n, err)
			}
			if !bytes.Equal(reference.Seal(nil, nonce, msg, nil), want) {
				t.Fatalf("%d bytes: opened wrongly", n)
			}
			copy(sealed, msg)
			if got := ours.Seal(sealed[:0], nonce, sealed[:n], nil); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: sealed wrongly in place", n)
			}
			if _, err := ours.Open(sealed[:0], nonce, sealed, nil); err != nil || !bytes.Equal(sealed[:n], msg) {
				t.Fatalf("%d bytes: opened wrongly in place: %v", n, err)
			}
		}
	}
}
