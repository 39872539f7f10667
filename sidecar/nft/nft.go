//go:build linux

// Package nft is the words that our nftables rules are made of: matches and statements, each a run of expressions, which Add joins to a rule.
// What is compared or looked up goes through the first register.
package nft

import (
	"encoding/binary"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Add puts a rule at the end of a chain, in the transaction that the next Flush ends.
func Add(c *Conn, to *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, x := range parts {
		all = append(all, x...)
	}
	c.AddRule(&nftables.Rule{Table: to.Table, Chain: to, Exprs: all})
}

// From matches what came in by the interface of that name, To what leaves by it.
func From(name string) []expr.Any { return Meta(expr.MetaKeyIIFNAME, interfaceName(name)) }

// To is to what leaves as From is to what comes in.
func To(name string) []expr.Any { return Meta(expr.MetaKeyOIFNAME, interfaceName(name)) }

func interfaceName(s string) []byte { return append([]byte(s), make([]byte, unix.IFNAMSIZ-len(s))...) }

// L4 matches a protocol above IP.
func L4(proto byte) []expr.Any { return Meta(expr.MetaKeyL4PROTO, []byte{proto}) }

// Marked matches packets with that mark.
func Marked(mark uint32) []expr.Any {
	return Meta(expr.MetaKeyMARK, binaryutil.NativeEndian.PutUint32(mark))
}

// Meta compares what is known of a packet beside its bytes.
func Meta(key expr.MetaKey, want []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want}}
}

// Longer matches packets of more than so many bytes, IP header included. What was merged is one packet.
func Longer(bytes uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyLEN, Register: 1},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint32(bytes)}}
}

// metaTime is NFT_META_TIME_NS: nanoseconds since 1970, by the clock of the day.
const metaTime expr.MetaKey = 30

// Before matches until that moment, by the clock of the day as it is now.
func Before(t time.Time) []expr.Any {
	since := uint64(max(0, t.UnixNano()))
	return []expr.Any{&expr.Meta{Key: metaTime, Register: 1},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 8, Size: 8},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint64(since)}}
}

// Not turns the last comparison, or look-up, of a match around.
func Not(match []expr.Any) []expr.Any {
	switch last := match[len(match)-1].(type) {
	case *expr.Cmp:
		last.Op = opposite[last.Op]
	case *expr.Lookup:
		last.Invert = !last.Invert
	}
	return match
}

var opposite = map[expr.CmpOp]expr.CmpOp{expr.CmpOpEq: expr.CmpOpNeq, expr.CmpOpNeq: expr.CmpOpEq,
	expr.CmpOpLt: expr.CmpOpGte, expr.CmpOpGte: expr.CmpOpLt, expr.CmpOpGt: expr.CmpOpLte, expr.CmpOpLte: expr.CmpOpGt}

// Verdict ends what is done to a packet, or in this chain.
func Verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// GoTo leaves the chain for another and does not come back.
func GoTo(c *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}}
}

// Counter is a counter of a table, by its name.
func Counter(t *nftables.Table, name string) *nftables.NamedObj {
	return &nftables.NamedObj{Table: t, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

// Count counts the packet in the counter of that name.
func Count(name string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: name}}
}

// Transport compares bytes of the TCP, UDP or ICMP header.
func Transport(offset uint32, want []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(want))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
	}
}

// Port is one as headers have it.
func Port(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// Tracked matches where any of the bits of what connection tracking knows is set.
func Tracked(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Which of a packet's addresses.
type Which int

// The addresses.
const (
	Source Which = iota
	Destination
)

// Family matches IPv4, or else IPv6; in chains of IP, not in those of a device.
func Family(four bool) []expr.Any {
	if four {
		return Meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4})
	}
	return Meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6})
}

// EtherType is Family for the chains of a device.
func EtherType(four bool) []expr.Any {
	if four {
		return Meta(expr.MetaKeyPROTOCOL, binaryutil.BigEndian.PutUint16(unix.ETH_P_IP))
	}
	return Meta(expr.MetaKeyPROTOCOL, binaryutil.BigEndian.PutUint16(unix.ETH_P_IPV6))
}

// Load puts an address into the first register. The packet is of that family.
func Load(w Which, four bool) []expr.Any {
	offset, size := uint32(8), uint32(16)
	if four {
		offset, size = 12, 4
	}
	if w == Destination {
		offset += size
	}
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}}
}

// Among looks the first register up in a set. In a map, what is found is in the first register then.
func Among(s *nftables.Set) []expr.Any {
	l := &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}
	if s.IsMap {
		l.DestRegister, l.IsDestRegSet = 1, true
	}
	return []expr.Any{l}
}
