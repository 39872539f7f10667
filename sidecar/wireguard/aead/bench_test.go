package aead

import (
	"crypto/cipher"
	"fmt"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// BenchmarkAEAD compares ours with x/crypto's, in place, as the engine uses them.
func BenchmarkAEAD(b *testing.B) {
	key, nonce := make([]byte, keySize), make([]byte, nonceSize)
	for _, impl := range []struct {
		name string
		make func([]byte) (cipher.AEAD, error)
	}{{"ours", New}, {"xcrypto", chacha20poly1305.New}} {
		a, err := impl.make(key)
		if err != nil {
			b.Fatal(err)
		}
		for _, size := range []int{64, 256, 576, 1408, 1420, 8900} {
			buf := make([]byte, size, size+tagSize)
			b.Run(fmt.Sprintf("seal/%d/%s", size, impl.name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					a.Seal(buf[:0], nonce, buf, nil)
				}
			})
			sealed := a.Seal(nil, nonce, buf, nil)
			out := make([]byte, 0, size)
			b.Run(fmt.Sprintf("open/%d/%s", size, impl.name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := a.Open(out, nonce, sealed, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
