package main

import "fmt"

// ChaCha20 works on groups of four blocks. A group is four registers, one for each row of the state, and each 128-bit lane of them
// is of another block: Z(4g) to Z(4g+3) are rows a, b, c and d of group g. So a round of a group is one quarter round on whole
// registers, and groups, which do not depend on each other, fill the processor while one waits for its last result. Six groups are
// what the registers have room for; they are also the 23 blocks that a packet of the internet's size takes, with one for its key.
const (
	maxGroups = 6
	blockSize = 64

	// The state before the rounds, which is added to that after them. Row d counts on by as many blocks as were made.
	rowA, rowB, rowC, rowD = "Z24", "Z25", "Z26", "Z27"
	// Free for transposing.
	t0, t1, t2, t3 = "Z28", "Z29", "Z30", "Z31"
)

// kernels are the numbers of groups there is code for.
var kernels = []int{1, 2, 4, 6}

func (a *asm) chacha() {
	for _, n := range kernels {
		a.kernel(n)
	}
	a.stream()
}

// state sets up the rows from the key at R10, the nonce at R11 and the block counter in R8. It takes R8 and R9.
func (a *asm) state() {
	a.say("The state's rows, for four blocks each: constants, key, key, and counter with nonce.")
	a.op("VBROADCASTI32X4", "sigma<>(SB), %s", rowA)
	a.op("VBROADCASTI32X4", "(R10), %s", rowB)
	a.op("VBROADCASTI32X4", "16(R10), %s", rowC)
	a.op("MOVL", "(R11), R9")
	a.op("SHLQ", "$32, R9")
	a.op("ORQ", "R9, R8")
	a.op("VMOVQ", "R8, X27")
	a.op("VPINSRQ", "$1, 4(R11), X27, X27")
	a.op("VSHUFI32X4", "$0, %s, %s, %[1]s", rowD, rowD)
	a.op("VPADDD", "count<>(SB), %s, %s", rowD, rowD)
}

// kernel makes 4n blocks of the key stream.
func (a *asm) kernel(n int) {
	a.text(kernelName(n), "NOSPLIT|NOFRAME", "$0-0",
		"Makes the key stream's next blocks, one in each register from Z0 on.",
		"In: Z24 to Z27 the state's rows. Out: row Z27 counted on. Takes BX and Z28 to Z31.")
	row := func(g, r int) string { return z(4*g + r) }
	for g := range n {
		a.op("VMOVDQA64", "%s, %s", rowA, row(g, 0))
		a.op("VMOVDQA64", "%s, %s", rowB, row(g, 1))
		a.op("VMOVDQA64", "%s, %s", rowC, row(g, 2))
		if g == 0 {
			a.op("VMOVDQA64", "%s, %s", rowD, row(g, 3))
		} else {
			a.op("VPADDD", "four<>(SB), %s, %s", row(g-1, 3), row(g, 3))
		}
	}
	a.op("MOVL", "$10, BX")
	a.op("PCALIGN", "$32")
	a.label("rounds")
	a.say("Columns.")
	a.round(n, row)
	a.say("Diagonals: shift rows a, c and d against b, which is the last to be known.")
	a.shift(n, row, 0x93, 0x39, 0x4e)
	a.round(n, row)
	a.say("Shift them back.")
	a.shift(n, row, 0x39, 0x93, 0x4e)
	a.op("DECL", "BX")
	a.op("JNZ", "rounds")
	for g := range n {
		a.say("Group %d: add the state, and transpose rows of four blocks into four blocks.", g)
		a.finish(row(g, 0), row(g, 1), row(g, 2), row(g, 3))
	}
	a.op("RET", "")
}

// round is a quarter round on all columns of all groups.
func (a *asm) round(n int, row func(g, r int) string) {
	for _, s := range []struct{ x, y, z, bits int }{{0, 1, 3, 16}, {2, 3, 1, 12}, {0, 1, 3, 8}, {2, 3, 1, 7}} {
		for g := range n {
			a.op("VPADDD", "%s, %s, %[2]s", row(g, s.y), row(g, s.x))
		}
		for g := range n {
			a.op("VPXORD", "%s, %s, %[2]s", row(g, s.x), row(g, s.z))
		}
		for g := range n {
			a.op("VPROLD", "$%d, %s, %[2]s", s.bits, row(g, s.z))
		}
	}
}

// shift moves the words of rows a, c and d round, as the immediates of VPSHUFD say.
func (a *asm) shift(n int, row func(g, r int) string, immA, immC, immD int) {
	for _, s := range []struct{ r, imm int }{{0, immA}, {3, immD}, {2, immC}} {
		for g := range n {
			a.op("VPSHUFD", "$0x%02x, %s, %[2]s", s.imm, row(g, s.r))
		}
	}
}

// finish makes blocks of rows, in the same registers.
func (a *asm) finish(r0, r1, r2, r3 string) {
	a.op("VPADDD", "%s, %s, %[2]s", rowA, r0)
	a.op("VPADDD", "%s, %s, %[2]s", rowB, r1)
	a.op("VPADDD", "%s, %s, %[2]s", rowC, r2)
	a.op("VPADDD", "%s, %s, %[2]s", rowD, r3)
	a.op("VPADDD", "four<>(SB), %s, %[1]s", rowD)
	a.op("VSHUFI32X4", "$0x44, %s, %s, %s", r1, r0, t0) // a0 a1 b0 b1
	a.op("VSHUFI32X4", "$0xee, %s, %s, %s", r1, r0, t1) // a2 a3 b2 b3
	a.op("VSHUFI32X4", "$0x44, %s, %s, %s", r3, r2, t2) // c0 c1 d0 d1
	a.op("VSHUFI32X4", "$0xee, %s, %s, %s", r3, r2, t3) // c2 c3 d2 d3
	a.op("VSHUFI32X4", "$0x88, %s, %s, %s", t2, t0, r0)
	a.op("VSHUFI32X4", "$0xdd, %s, %s, %s", t2, t0, r1)
	a.op("VSHUFI32X4", "$0x88, %s, %s, %s", t3, t1, r2)
	a.op("VSHUFI32X4", "$0xdd, %s, %s, %s", t3, t1, r3)
}

// dispatch calls the smallest kernel that makes the CX bytes, or else the largest. What after writes comes behind the call.
func (a *asm) dispatch(after func(n int)) {
	for i := len(kernels) - 1; i > 0; i-- {
		a.op("CMPQ", "CX, $%d", 4*kernels[i-1]*blockSize)
		a.op("JHI", "groups%d", kernels[i])
	}
	for i, n := range kernels {
		if i > 0 {
			a.label("groups%d", n)
		}
		a.op("CALL", "%s(SB)", kernelName(n))
		after(n)
		if i < len(kernels)-1 {
			a.op("JMP", "made")
		}
	}
	a.label("made")
}

// stream is ChaCha20 over a message of any length.
func (a *asm) stream() {
	a.text("stream<>", "NOSPLIT|NOFRAME", "$0-0",
		"XORs the key stream onto a message.",
		"In: Z24 to Z27 the state's rows, SI source, DI destination, AX length; R11 is 64 if the stream's first block is not for the",
		"message but goes to (R12), which is 64-byte aligned, and else 0. Takes AX, BX, CX, DI, SI, R11, K1 and all vectors.")
	a.label("again")
	a.op("LEAQ", "(AX)(R11*1), CX")
	a.dispatch(func(int) {})
	a.op("TESTQ", "R11, R11")
	a.op("JEQ", "block0")
	a.say("The stream's first block: go back by it, since what follows counts offsets from it.")
	a.op("VMOVDQA64", "Z0, (R12)")
	a.op("SUBQ", "R11, SI")
	a.op("SUBQ", "R11, DI")
	a.op("XORL", "R11, R11")
	a.op("JMP", "block1")
	for b := range 4 * maxGroups {
		a.label("block%d", b)
		a.op("SUBQ", "$%d, AX", blockSize)
		a.op("JLT", "rest%d", b)
		a.op("VPXORD", "%d(SI), %s, %[2]s", b*blockSize, z(b))
		a.op("VMOVDQU64", "%s, %d(DI)", z(b), b*blockSize)
	}
	a.op("ADDQ", "$%d, SI", 4*maxGroups*blockSize)
	a.op("ADDQ", "$%d, DI", 4*maxGroups*blockSize)
	a.op("TESTQ", "AX, AX")
	a.op("JNE", "again")
	a.op("RET", "")
	for b := range 4 * maxGroups {
		a.label("rest%d", b)
		if b > 0 {
			a.op("VMOVDQA64", "%s, Z0", z(b))
			a.op("ADDQ", "$%d, SI", b*blockSize)
			a.op("ADDQ", "$%d, DI", b*blockSize)
		}
		if b < 4*maxGroups-1 {
			a.op("JMP", "rest")
		}
	}
	a.label("rest")
	a.xorRest(func() { a.op("RET", "") })
}

// xorRest XORs the first AX+64 bytes of Z0, fewer than 64, from SI to DI, and returns. Stores under a mask would be shorter, but what
// reads them back, as Poly1305 does, waits for hundreds of cycles. It takes AX, CX and K1.
func (a *asm) xorRest(end func()) {
	a.op("ADDQ", "$%d, AX", blockSize)
	a.op("JEQ", "stored")
	a.op("MOVQ", "$-1, CX")
	a.op("BZHIQ", "AX, CX, CX")
	a.op("KMOVQ", "CX, K1")
	a.op("VMOVDQU8.Z", "(SI), K1, Z1")
	a.op("VPXORQ", "Z1, Z0, Z0")
	for _, part := range []struct {
		size        int
		store, next string
	}{
		{32, "VMOVDQU Y0", "VEXTRACTI64X4 $1, Z0, Y0"},
		{16, "VMOVDQU X0", "VEXTRACTI128 $1, Y0, X0"},
		{8, "VMOVQ X0", "VPSRLDQ $8, X0, X0"},
		{4, "VMOVD X0", "VPSRLDQ $4, X0, X0"},
		{2, "VPEXTRW $0, X0", "VPSRLDQ $2, X0, X0"},
		{1, "VPEXTRB $0, X0", ""},
	} {
		a.op("TESTB", "$%d, AL", part.size)
		a.op("JEQ", "below%d", part.size)
		fmt.Fprintf(a, "\t%s, (DI)\n", part.store)
		if part.next != "" {
			fmt.Fprintf(a, "\t%s\n", part.next)
			a.op("ADDQ", "$%d, DI", part.size)
		}
		a.label("below%d", part.size)
	}
	a.label("stored")
	end()
}

func kernelName(groups int) string { return fmt.Sprintf("groups%d<>", groups) }

func z(i int) string { return fmt.Sprintf("Z%d", i) }
