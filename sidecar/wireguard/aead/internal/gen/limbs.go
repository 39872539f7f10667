package main

// limbs are the registers, or what else can be an operand, of eight numbers, a number in each 64-bit lane: three limbs of 44, 44 and 42
// bits. A number is l0 + l1·2^44 + l2·2^88, so that limbs multiply with IFMA, which takes 52 bits and gives the low or the high 52 of a
// product.
//
// # Bounds
//
// After carry: l0 < 2^44, l1 < 2^44, l2 < 2^42 + 2^13. A group's limbs are below 2^44, 2^44 and 2^41, so all that is multiplied by a
// power of r is below 2^45, and the power's limbs, twenty times them included (s1, s2), are below 2^48.4: all within 52 bits.
// Of a limb's sum at most six products are added: low halves, below 6·2^52 plus a limb, and high halves, below 6·2^(45+48.4-52) < 2^44.
type limbs [3]string

func (l limbs) String() string { return l[0] + " " + l[1] + " " + l[2] }

// power is a power of r: limbs, and s1 = 20·l1 and s2 = 20·l2, with which a product that would be at 2^132 or above comes in at
// 2^132 / 2^132: 2^130 is 5, and 2^132 is 20.
type power struct {
	l      limbs
	s1, s2 string
}

func (p power) String() string { return p.l.String() + " " + p.s1 + " " + p.s2 }

// load reads a whole group.
func (a *asm) load(offset int) {
	a.op("VMOVDQU64", "%d(SI), %s", offset, msg[0])
	a.op("VMOVDQU64", "%d(SI), %s", offset+64, msg[1])
	a.split("")
}

// split makes limbs of the two halves of a group, which are in msg's first two registers. Only lanes in the mask get the bit on top.
func (a *asm) split(mask string) {
	a.say("(%s) = limbs of the eight blocks in the first two of them.", msg)
	a.op("VPUNPCKLQDQ", "%s, %s, %s", msg[1], msg[0], msg[2]) // low words
	a.op("VPUNPCKHQDQ", "%s, %s, %s", msg[1], msg[0], tmp)    // high words
	a.op("VPANDQ", "%s, %s, %s", mask44, msg[2], msg[0])
	a.op("VPSHRDQ", "$44, %s, %s, %s", tmp, msg[2], msg[1])
	a.op("VPANDQ", "%s, %s, %[2]s", mask44, msg[1])
	a.op("VPSRLQ", "$24, %s, %s", tmp, msg[2])
	if mask == "" {
		a.op("VPORQ", "%s, %s, %[2]s", pad, msg[2])
	} else {
		a.op("VPORQ", "%s, %s, %s, %[2]s", pad, msg[2], mask)
	}
}

// twenty makes s1 and s2 of a power.
func (a *asm) twenty(p power) {
	for i, s := range []string{p.s1, p.s2} {
		a.op("VPSLLQ", "$2, %s, %s", p.l[i+1], tmp)
		a.op("VPSLLQ", "$4, %s, %s", p.l[i+1], s)
		a.op("VPADDQ", "%s, %s, %[2]s", tmp, s)
	}
}

// zero begins a sum of products.
func (a *asm) zero() {
	a.say("Sum = 0.")
	for i := range low {
		a.op("VPXORQ", "%s, %[1]s, %[1]s", low[i])
		a.op("VPXORQ", "%s, %[1]s, %[1]s", high[i])
	}
}

// start begins a sum of products with the group in msg.
func (a *asm) start() {
	a.say("Sum = (%s).", msg)
	for i := range low {
		a.op("VMOVDQA64", "%s, %s", msg[i], low[i])
		a.op("VPXORQ", "%s, %[1]s, %[1]s", high[i])
	}
}

// multiply adds x·p to the sum: at 2^(44k) low halves in low[k], and at 2^(44k+52) high halves in high[k].
func (a *asm) multiply(x limbs, p power) {
	a.say("Sum += (%s)·(%s), of which the last two times 20 are in %s.", x, p.l, p.s1+" "+p.s2)
	by := [3][3]string{ // what x's limb i is multiplied by for the sum's limb k
		{p.l[0], p.l[1], p.l[2]},
		{p.s2, p.l[0], p.l[1]},
		{p.s1, p.s2, p.l[0]},
	}
	for i := range x {
		for k := range low {
			a.op("VPMADD52LUQ", "%s, %s, %s", by[i][k], x[i], low[k])
			a.op("VPMADD52HUQ", "%s, %s, %s", by[i][k], x[i], high[k])
		}
	}
}

// gather adds the sum's high halves to its low ones, with the limb each belongs to: 2^52 is 2^8 of the next limb, and from the third
// one on it is at 2^140 = 2^130·2^10, which is 5·2^10 of the first. High[2] has only products by l0 to l2, so it is below 2^40 before and 2^50 after, and low[0] stays below
// 2^55 when five times that is added.
func (a *asm) gather() {
	a.op("VPSLLQ", "$8, %s, %[1]s", high[0])
	a.op("VPSLLQ", "$8, %s, %[1]s", high[1])
	a.op("VPSLLQ", "$10, %s, %[1]s", high[2])
	a.op("VPADDQ", "%s, %s, %[2]s", high[0], low[1])
	a.op("VPADDQ", "%s, %s, %[2]s", high[1], low[2])
}

// carry makes limbs of the sum, within the bounds above.
func (a *asm) carry(to limbs) {
	a.say("(%s) = sum.", to)
	a.gather()
	a.op("VPSRLQ", "$42, %s, %s", low[2], tmp)
	a.op("VPADDQ", "%s, %s, %[2]s", high[2], tmp) // below 2^50
	a.op("VPANDQ", "%s, %s, %s", mask42, low[2], low[2])
	a.op("VPADDQ", "%s, %s, %[2]s", tmp, low[0])
	a.op("VPSLLQ", "$2, %s, %[1]s", tmp)
	a.op("VPADDQ", "%s, %s, %[2]s", tmp, low[0])
	a.op("VPSRLQ", "$44, %s, %s", low[0], tmp)
	a.op("VPANDQ", "%s, %s, %s", mask44, low[0], to[0])
	a.op("VPADDQ", "%s, %s, %[2]s", tmp, low[1])
	a.op("VPSRLQ", "$44, %s, %s", low[1], tmp)
	a.op("VPANDQ", "%s, %s, %s", mask44, low[1], to[1])
	a.op("VPADDQ", "%s, %s, %s", tmp, low[2], to[2])
}
