package main

import "fmt"

// Poly1305 works on eight blocks at once, a block in each 64-bit lane, as limbs.go has numbers. The lanes' blocks are 0 4 1 5 2 6 3 7,
// which is how two loads of four blocks unpack.
//
// A group is eight blocks. Lane by lane, H = ((G0·r^8 + G1)·r^8 + G2)..., and in the end the lanes are multiplied by r^8, r^4, r^7,
// r^3, r^6, r^2, r^5 and r (P) and added up. The groups end where the message does, the block of lengths being the last one; so it is
// the first group that may lack blocks, and zeros in front change nothing. Two groups are taken at a time, with r^16 and r^8, since
// what takes long is to wait for H.
var (
	h     = limbs{"Z0", "Z1", "Z2"} // the state, for each lane
	low   = limbs{"Z3", "Z4", "Z5"} // sums of low halves of products
	high  = limbs{"Z6", "Z7", "Z8"} // sums of high halves
	even  = power{limbs{"Z9", "Z10", "Z11"}, "Z12", "Z13"}
	odd   = power{limbs{"Z14", "Z15", "Z16"}, "Z17", "Z18"}
	lanes = limbs{"Z19", "Z20", "Z21"} // P: r^8, r^4, r^7, ...
	ahead = limbs{"Z22", "Z23", "Z24"} // P·r^8
	msg   = limbs{"Z28", "Z29", "Z30"} // a group of the message
)

const (
	mask44 = "Z25"
	mask42 = "Z26"
	pad    = "Z27" // 2^128 in the third limb: what every whole block has on top
	tmp    = "Z31"
)

func (a *asm) poly() {
	a.text("poly<>", "NOSPLIT|NOFRAME", "$0-0",
		"Computes Poly1305 of a message, padded with zeros to whole blocks of 16 bytes, and one block more.",
		"In: SI message, DX its length, R8 and R9 the last block's halves, R12 the key, r and s. Out: AX and BX the tag's halves.",
		"Takes CX, DX, SI, R8 to R11, R13, R15, K1 to K7 and all vectors.",
		"",
		"A vector has a 64-bit number for each of eight blocks, in the order 0 4 1 5 2 6 3 7; three of them, (l0 l1 l2), are the numbers",
		"l0 + l1·2^44 + l2·2^88. Carried, l0 and l1 are below 2^44 and l2 below 2^42 + 2^13; with a block added, below 2^45.",
		fmt.Sprintf("%s: H, the state. %s: a group of eight blocks. %s: P, the powers r^8 r^4 r^7 r^3 r^6 r^2 r^5 r.", h, msg, lanes),
		fmt.Sprintf("%s: P·r^8. %s: r^16 and 20 times its l1 and l2, %s: r^8 likewise; earlier, smaller powers.", ahead, even, odd),
		fmt.Sprintf("%s and %s: the sum of products, low 52 bits and high 52 bits, of at most six for a limb.", low, high),
		fmt.Sprintf("%s, %s: 44 and 42 low bits. %s: 2^40, which is 2^128 in l2. %s: temporary.", mask44, mask42, pad, tmp))
	a.polyMasks()
	a.polyPowers()
	a.polyGroups()
	a.polyEnd()
	a.op("RET", "")
}

// polyMasks finds where groups begin and what of the first and the last of them is the message's.
func (a *asm) polyMasks() {
	a.say("R10 = n/16 rounded up + 1 blocks. R11 = groups of eight. R13 = 16 bytes for each block that the first group lacks.")
	a.op("LEAQ", "31(DX), R10")
	a.op("SHRQ", "$4, R10")
	a.op("LEAQ", "7(R10), R11")
	a.op("SHRQ", "$3, R11")
	a.op("LEAQ", "(R11*8), R13")
	a.op("SUBQ", "R10, R13")
	a.op("SHLQ", "$4, R13")
	a.say("DX = where in the last group the message ends: 0 to 112. AX = where in it the message begins: 0, unless it is the first too.")
	a.op("ADDQ", "R13, DX")
	a.op("LEAQ", "-1(R11), CX")
	a.op("SHLQ", "$7, CX")
	a.op("SUBQ", "CX, DX")
	a.op("XORL", "AX, AX")
	a.op("TESTQ", "CX, CX")
	a.op("CMOVQEQ", "R13, AX")
	a.say("K3 = bytes to load for the last group's first half, K4 for its second, which begins at 64 or with the message. The registers")
	a.say("do not cross into what may be no memory for more than the last 15 bytes: loads that a mask keeps from faulting are slow.")
	a.op("XORL", "CX, CX")
	a.op("MOVQ", "$-1, R15")
	a.op("MOVQ", "DX, BX")
	a.op("SUBQ", "AX, BX")
	a.op("BZHIQ", "BX, R15, BX")
	a.op("KMOVQ", "BX, K3")
	a.op("MOVL", "$64, BX")
	a.op("MOVQ", "BX, R10")
	a.op("CMPQ", "AX, BX")
	a.op("CMOVQHI", "AX, BX")
	a.op("SUBQ", "BX, DX")
	a.op("CMOVQCS", "CX, DX")
	a.op("BZHIQ", "DX, R15, BX")
	a.op("KMOVQ", "BX, K4")
	a.say("R10 = where the first group's second half is in memory: behind its first half, or at SI if that has nothing.")
	a.op("SUBQ", "R13, R10")
	a.op("CMOVQCS", "CX, R10")
	a.op("ADDQ", "SI, R10")
	a.say("K1, K2 = words of the first group that are the message's, in its halves.")
	a.op("SHRQ", "$3, R13")
	a.op("MOVL", "$0xffff, AX")
	a.op("SHLXL", "R13, AX, AX")
	a.op("KMOVB", "AX, K1")
	a.op("SHRL", "$8, AX")
	a.op("KMOVB", "AX, K2")
	a.say("K5 = the first group's lanes that have a block, in the lanes' order.")
	a.op("SHRQ", "$1, R13")
	a.op("MOVL", "$0xff, AX")
	a.op("SHLXL", "R13, AX, AX")
	a.op("SHLQ", "$4, R13")
	a.op("MOVL", "$0x55, CX")
	a.op("PDEPL", "CX, AX, BX") // blocks 0 to 3
	a.op("SHRB", "$4, AX")
	a.op("ADDL", "CX, CX")
	a.op("PDEPL", "CX, AX, CX") // blocks 4 to 7
	a.op("ORL", "BX, CX")
	a.op("KMOVB", "CX, K5")
	a.say("K6, K7 = the halves of the last block, in a group's second half.")
	a.op("MOVL", "$0x40, AX")
	a.op("KMOVB", "AX, K6")
	a.op("MOVL", "$0x80, AX")
	a.op("KMOVB", "AX, K7")
}

// polyPowers makes r^8 in odd, r^16 in even, P in lanes. A lane of P is r, times r, r^2 and r^4 as the bits of its exponent less 1
// say, and the lanes' exponents are 8 4 7 3 6 2 5 1.
func (a *asm) polyPowers() {
	a.say("Masks.")
	a.op("MOVQ", "$0xfffffffffff, R15")
	a.op("VPBROADCASTQ", "R15, %s", mask44)
	a.op("VPSRLQ", "$2, %s, %s", mask44, mask42)
	a.op("MOVQ", "$1<<40, AX")
	a.op("VPBROADCASTQ", "AX, %s", pad)
	a.say("r, clamped (RFC 8439 section 2.5).")
	a.op("MOVQ", "$0x0ffffffc0fffffff, AX")
	a.op("MOVQ", "$0x0ffffffc0ffffffc, CX")
	a.op("ANDQ", "(R12), AX")
	a.op("ANDQ", "8(R12), CX")
	a.op("MOVQ", "AX, BX")
	a.op("ANDQ", "R15, BX")
	a.op("VPBROADCASTQ", "BX, %s", even.l[0])
	a.op("SHRQ", "$44, CX, AX")
	a.op("ANDQ", "R15, AX")
	a.op("VPBROADCASTQ", "AX, %s", even.l[1])
	a.op("SHRQ", "$24, CX")
	a.op("VPBROADCASTQ", "CX, %s", even.l[2])
	a.twenty(even)

	a.say("r^2. P = r^2 where bit 0 of the exponent less 1 is set, else r.")
	a.zero()
	a.multiply(even.l, even)
	a.carry(odd.l)
	a.twenty(odd)
	a.op("MOVL", "$0x33, AX")
	a.op("KMOVB", "AX, K7")
	for i := range lanes {
		a.op("VPBLENDMQ", "%s, %s, K7, %s", odd.l[i], even.l[i], lanes[i])
	}
	a.say("r^4. P times r^2 by bit 1.")
	a.zero()
	a.multiply(odd.l, odd)
	a.carry(even.l)
	a.twenty(even)
	a.timesByBit(odd, 0x0f)
	a.say("r^8. P times r^4 by bit 2.")
	a.zero()
	a.multiply(even.l, even)
	a.carry(odd.l)
	a.twenty(odd)
	a.timesByBit(even, 0x55)
	a.op("MOVL", "$0x80, AX")
	a.op("KMOVB", "AX, K7")
}

// timesByBit multiplies the lanes of P in the mask by a power.
func (a *asm) timesByBit(p power, mask int) {
	a.zero()
	a.multiply(lanes, p)
	a.carry(h)
	a.op("MOVL", "$0x%02x, AX", mask)
	a.op("KMOVB", "AX, K7")
	for i := range lanes {
		a.op("VMOVDQA64", "%s, K7, %s", h[i], lanes[i])
	}
}

// polyGroups takes in all groups and leaves the products by P in low and high.
func (a *asm) polyGroups() {
	a.op("DECQ", "R11")
	a.op("JNE", "more")
	a.polyOne()
	a.op("JMP", "sum")
	a.label("more")
	a.polyFirst()
	a.polyMiddle()
	a.polyLast()
}

// polyOne is for one group alone.
func (a *asm) polyOne() {
	a.say("One group alone, in which the message ends too. Its product by P is all.")
	a.op("VMOVDQU8.Z", "(SI), K3, %s", msg[0])
	a.op("VMOVDQU8.Z", "(R10), K4, %s", msg[1])
	a.expand()
	a.lastBlock()
	a.split("K5")
	a.zero()
	p := power{lanes, odd.s1, odd.s2}
	a.twenty(p)
	a.multiply(msg, p)
}

// polyFirst makes the powers that several groups need, and H of the first.
func (a *asm) polyFirst() {
	a.say("r^16, and P·r^8 by which H is multiplied when P multiplies the last group.")
	a.zero()
	a.multiply(odd.l, odd)
	a.carry(even.l)
	a.twenty(even)
	a.zero()
	a.multiply(lanes, odd)
	a.carry(ahead)
	a.say("H = the first group.")
	a.op("VMOVDQU64", "(SI), %s", msg[0])
	a.op("VMOVDQU64", "(R10), %s", msg[1])
	a.expand()
	a.split("K5")
	a.op("SUBQ", "R13, SI")
	for i := range h {
		a.op("VMOVDQA64", "%s, %s", msg[i], h[i])
	}
	a.op("ADDQ", "$128, SI")
}

// polyMiddle takes in the groups between the first and the last, and ends at the label last.
func (a *asm) polyMiddle() {
	a.say("R11 = groups between the first and the last. If their number is odd: H = H·r^8 + group.")
	a.op("DECQ", "R11")
	a.op("TESTQ", "$1, R11")
	a.op("JEQ", "pairs")
	a.load(0)
	a.start()
	a.multiply(h, odd)
	a.carry(h)
	a.op("ADDQ", "$128, SI")
	a.label("pairs")
	a.op("SHRQ", "$1, R11")
	a.op("JEQ", "last")
	a.op("PCALIGN", "$32")
	a.label("pair")
	a.say("H = H·r^16 + group·r^8 + group.")
	a.load(128)
	a.start()
	a.load(0)
	a.multiply(msg, odd)
	a.multiply(h, even)
	a.carry(h)
	a.op("ADDQ", "$256, SI")
	a.op("DECQ", "R11")
	a.op("JNE", "pair")
	a.label("last")
}

// polyLast takes in the last group.
func (a *asm) polyLast() {
	a.say("H·(P·r^8) + last group·P.")
	a.op("VMOVDQU8.Z", "(SI), K3, %s", msg[0])
	a.op("VMOVDQU8.Z", "64(SI), K4, %s", msg[1])
	a.lastBlock()
	a.split("")
	a.zero()
	p := power{lanes, odd.s1, odd.s2}
	a.twenty(p)
	a.multiply(msg, p)
	p = power{ahead, even.s1, even.s2}
	a.twenty(p)
	a.multiply(h, p)
}

// lastBlock puts the last block, from R8 and R9, where it belongs in a group's second half.
func (a *asm) lastBlock() {
	a.op("VPBROADCASTQ", "R8, K6, %s", msg[1])
	a.op("VPBROADCASTQ", "R9, K7, %s", msg[1])
}

// expand moves the first group's blocks to its end.
func (a *asm) expand() {
	a.op("VPEXPANDQ.Z", "%s, K1, %[1]s", msg[0])
	a.op("VPEXPANDQ.Z", "%s, K2, %[1]s", msg[1])
}

// polyEnd adds up the lanes, reduces modulo 2^130 - 5 and adds s.
func (a *asm) polyEnd() {
	a.label("sum")
	a.gather()
	a.op("VPADDQ", "%s, %s, %[2]s", high[2], low[0])
	a.op("VPSLLQ", "$2, %s, %[1]s", high[2])
	a.op("VPADDQ", "%s, %s, %[2]s", high[2], low[0])
	a.say("Add up the lanes: eight limbs below 2^56 are below 2^59.")
	for i := range 3 {
		a.op("VEXTRACTI64X4", "$1, Z%d, Y%d", 3+i, 6+i)
	}
	for i := range 3 {
		a.op("VPADDQ", "Y%d, Y%d, Y%[2]d", 6+i, 3+i)
	}
	for i := range 3 {
		a.op("VEXTRACTI128", "$1, Y%d, X%d", 3+i, 6+i)
	}
	for i := range 3 {
		a.op("VPADDQ", "X%d, X%d, X%[2]d", 6+i, 3+i)
	}
	for i := range 3 {
		a.op("VPSRLDQ", "$8, X%d, X%d", 3+i, 6+i)
	}
	for i := range 3 {
		a.op("VPADDQ", "X%d, X%d, X%[2]d", 6+i, 3+i)
	}
	a.op("VMOVQ", "X3, AX")
	a.op("VMOVQ", "X4, BX")
	a.op("VMOVQ", "X5, CX")
	a.say("AX, BX, CX = limbs. Carry; R15 is still the mask of 44 bits.")
	a.op("MOVQ", "R15, R11")
	a.op("SHRQ", "$2, R11")
	a.scalarCarry("AX", "BX")
	a.scalarCarry("BX", "CX")
	a.op("MOVQ", "CX, DX")
	a.op("ANDQ", "R11, CX")
	a.op("SHRQ", "$42, DX")
	a.op("LEAQ", "(DX)(DX*4), DX")
	a.op("ADDQ", "DX, AX")
	a.scalarCarry("AX", "BX")
	a.scalarCarry("BX", "CX")
	a.say("What is in CX above 42 bits, one at most, is with the rest below 2^130 + 2^17: words of 64 bits, AX, BX, CX.")
	a.op("MOVQ", "BX, DX")
	a.op("SHLQ", "$44, DX")
	a.op("SHRQ", "$20, BX")
	a.op("MOVQ", "CX, R8")
	a.op("SHLQ", "$24, R8")
	a.op("SHRQ", "$40, CX")
	a.op("ADDQ", "DX, AX")
	a.op("ADCQ", "R8, BX")
	a.op("ADCQ", "$0, CX")
	a.say("If the number plus 5 reaches 2^130, that less 2^130 is the remainder. Bits from 128 on are not needed then.")
	a.op("MOVQ", "AX, R8")
	a.op("MOVQ", "BX, R9")
	a.op("ADDQ", "$5, R8")
	a.op("ADCQ", "$0, R9")
	a.op("ADCQ", "$0, CX")
	a.op("SHRQ", "$2, CX") // sets the zero flag if it does not
	a.op("CMOVQNE", "R8, AX")
	a.op("CMOVQNE", "R9, BX")
	a.say("Add s.")
	a.op("ADDQ", "16(R12), AX")
	a.op("ADCQ", "24(R12), BX")
}

// scalarCarry moves what is above 44 bits, the mask of which is R15, from one limb to the next. It takes DX.
func (a *asm) scalarCarry(from, to string) {
	a.op("MOVQ", "%s, DX", from)
	a.op("ANDQ", "R15, %s", from)
	a.op("SHRQ", "$44, DX")
	a.op("ADDQ", "DX, %s", to)
}
