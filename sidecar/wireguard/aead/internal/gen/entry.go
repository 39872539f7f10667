package main

// entries writes the functions that Go calls. Those with a frame align a part of it to 64 bytes, at R12.
func (a *asm) entries() {
	a.seal()
	a.open()
	a.polyEntry()
	a.blocksEntry()
}

func (a *asm) seal() {
	a.text("·seal", "0", "$128-40", "func seal(dst, src *byte, n int, key *[32]byte, nonce *[12]byte)")
	a.aligned()
	a.arguments()
	a.op("XORL", "R8, R8")
	a.state()
	a.op("MOVL", "$64, R11")
	a.op("CALL", "stream<>(SB)")
	a.authenticate("dst+0(FP)")
	a.op("MOVQ", "dst+0(FP), DI")
	a.op("MOVQ", "n+16(FP), DX")
	a.op("MOVQ", "AX, (DI)(DX*1)")
	a.op("MOVQ", "BX, 8(DI)(DX*1)")
	a.end()
}

// arguments loads those of ChaCha20: destination, source, length, key and nonce.
func (a *asm) arguments() {
	a.op("MOVQ", "dst+0(FP), DI")
	a.op("MOVQ", "src+8(FP), SI")
	a.op("MOVQ", "n+16(FP), AX")
	a.op("MOVQ", "key+24(FP), R10")
	a.op("MOVQ", "nonce+32(FP), R11")
}

// authenticate leaves the tag of a message without additional data in AX and BX. Its last block has the two lengths.
func (a *asm) authenticate(message string) {
	a.op("MOVQ", "%s, SI", message)
	a.op("MOVQ", "n+16(FP), DX")
	a.op("XORL", "R8, R8")
	a.op("MOVQ", "DX, R9")
	a.op("CALL", "poly<>(SB)")
}

// aligned points R12 into the frame.
func (a *asm) aligned() {
	a.op("LEAQ", "63(SP), R12")
	a.op("ANDQ", "$~63, R12")
}

func (a *asm) end() {
	a.op("VZEROUPPER", "")
	a.op("RET", "")
}

func (a *asm) open() {
	a.text("·open", "0", "$1600-41", "func open(dst, src *byte, n int, key *[32]byte, nonce *[12]byte) bool",
		"",
		"The first pass's key stream waits in the frame while the message is authenticated, since computing its first block alone",
		"would take as long.")
	a.aligned()
	a.op("MOVQ", "n+16(FP), CX")
	a.op("MOVQ", "key+24(FP), R10")
	a.op("MOVQ", "nonce+32(FP), R11")
	a.op("XORL", "R8, R8")
	a.state()
	a.op("ADDQ", "$64, CX")
	a.dispatch(func(n int) {
		for b := range 4 * n {
			a.op("VMOVDQA64", "%s, %d(R12)", z(b), b*blockSize)
		}
	})
	a.say("Authenticate.")
	a.authenticate("src+8(FP)")
	a.op("MOVQ", "src+8(FP), SI")
	a.op("MOVQ", "n+16(FP), DX")
	a.op("XORQ", "(SI)(DX*1), AX")
	a.op("XORQ", "8(SI)(DX*1), BX")
	a.op("ORQ", "AX, BX")
	a.op("SETEQ", "ret+40(FP)")
	a.op("JNE", "done")
	a.say("Decrypt with the stream in the frame: R13 is where it is read, R15 where it ends.")
	a.op("MOVQ", "dst+0(FP), DI")
	a.op("MOVQ", "DX, AX")
	a.op("LEAQ", "64(R12), R13")
	a.op("LEAQ", "%d(R12), R15", 4*maxGroups*blockSize)
	a.op("PCALIGN", "$32")
	a.label("block")
	a.op("VMOVDQA64", "(R13), Z0")
	a.op("SUBQ", "$64, AX")
	a.op("JLT", "rest")
	a.op("VPXORD", "(SI), Z0, Z0")
	a.op("VMOVDQU64", "Z0, (DI)")
	a.op("ADDQ", "$64, SI")
	a.op("ADDQ", "$64, DI")
	a.op("ADDQ", "$64, R13")
	a.op("CMPQ", "R13, R15")
	a.op("JNE", "block")
	a.say("What is longer than that goes on from there.")
	a.op("TESTQ", "AX, AX")
	a.op("JEQ", "done")
	a.op("MOVQ", "key+24(FP), R10")
	a.op("MOVQ", "nonce+32(FP), R11")
	a.op("MOVL", "$%d, R8", 4*maxGroups)
	a.state()
	a.op("XORL", "R11, R11")
	a.op("CALL", "stream<>(SB)")
	a.label("done")
	a.end()
	a.label("rest")
	a.xorRest(a.end)
}

func (a *asm) polyEntry() {
	a.text("·poly", "0", "$8-40", "func poly(tag *[16]byte, msg *byte, n int, last *[2]uint64, key *[32]byte)")
	a.op("MOVQ", "msg+8(FP), SI")
	a.op("MOVQ", "n+16(FP), DX")
	a.op("MOVQ", "last+24(FP), AX")
	a.op("MOVQ", "key+32(FP), R12")
	a.op("MOVQ", "(AX), R8")
	a.op("MOVQ", "8(AX), R9")
	a.op("CALL", "poly<>(SB)")
	a.op("MOVQ", "tag+0(FP), DI")
	a.op("MOVQ", "AX, (DI)")
	a.op("MOVQ", "BX, 8(DI)")
	a.end()
}

func (a *asm) blocksEntry() {
	a.text("·xor", "0", "$128-44", "func xor(dst, src *byte, n int, key *[32]byte, nonce *[12]byte, counter uint32)")
	a.aligned()
	a.arguments()
	a.op("MOVL", "counter+40(FP), R8")
	a.state()
	a.op("XORL", "R11, R11")
	a.op("CALL", "stream<>(SB)")
	a.end()
}
