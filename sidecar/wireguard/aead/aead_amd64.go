//go:build gc && !purego

package aead

import "golang.org/x/sys/cpu"

//go:generate go run ./internal/gen aead_amd64.s

// supported says whether the CPU has what the assembly uses; that the system saves its registers is part of the answer.
var supported = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512IFMA &&
	cpu.X86.HasAVX512VBMI2 && cpu.X86.HasBMI2

// seal encrypts n bytes of src to dst and puts the tag behind them.
//
//go:noescape
func seal(dst, src *byte, n int, key *[32]byte, nonce *[12]byte)

// open decrypts n bytes of src to dst if the tag behind them is right, and says whether it is. If it is not it writes nothing.
//
//go:noescape
func open(dst, src *byte, n int, key *[32]byte, nonce *[12]byte) bool

// poly is Poly1305 of n bytes, padded with zeros to whole blocks, and of one block more. It is there for tests.
//
//go:noescape
func poly(tag *[16]byte, msg *byte, n int, last *[2]uint64, key *[32]byte)

// xor is ChaCha20 from a block on. It is there for tests.
//
//go:noescape
func xor(dst, src *byte, n int, key *[32]byte, nonce *[12]byte, counter uint32)
