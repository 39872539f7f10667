//go:build linux

package oslink

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// policy is the nftables table of one interface. Its chains, in the order in which a packet meets them:
//
//	guard    before connection tracking: to the interface's own addresses only through it
//	inside   what the guard finds on the interface: from peers' addresses, to its own, or not at all
//	doors    an open port leads to the port of its listener
//	input    answers, what came through a door, and echo requests; the rest is refused as if nobody listened
//	forward  nothing, in either direction
//
// A chain or a set is replaced whole, in one transaction with whatever else changes. Addresses, and ports that are open at one of them
// alone, are in sets (sets.go): a gateway has more than a hundred of each.
//
// The tunnel's own encrypted packets, one by one where the inner ones are merged, meet guard and input as well: each asks for the
// interface once, in its first rule, since a comparison of names costs as much as all else in a rule.
type policy struct {
	nft                                  *nftables.Conn
	table                                *nftables.Table
	iface                                string
	guard, inside, doors, input, forward *nftables.Chain

	own    map[bool]*nftables.Set     // the interface's addresses, by whether they are IPv4
	doorAt map[doorKind]*nftables.Set // doors at one address alone
}

// door is one open port and the port of its listener.
type door struct {
	proto    byte       // unix.IPPROTO_TCP or UDP
	at       netip.Addr // zero: each of ours
	from, to uint16
}

// tableName is the table of an interface: several can be on one machine.
func tableName(iface string) string { return "tenantwire-" + iface }

// newPolicy shuts the interface. What a process that died left under the same name goes in the same transaction.
func newPolicy(iface string) (*policy, error) {
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	p := &policy{nft: nft, iface: iface, table: &nftables.Table{Name: tableName(iface), Family: nftables.TableFamilyINet}}
	nft.AddTable(p.table) // so that deleting it cannot fail
	nft.DelTable(p.table)
	nft.AddTable(p.table)
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		return nft.AddChain(&nftables.Chain{Name: name, Table: p.table, Type: kind, Hooknum: hook, Priority: &priority})
	}
	p.guard = chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	p.inside = nft.AddChain(&nftables.Chain{Name: "inside", Table: p.table})
	p.doors = chain("doors", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	p.input = chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	p.forward = chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	if err := p.addSets(); err != nil {
		_ = nft.CloseLasting()
		return nil, fmt.Errorf("set up nftables table %s: %w", p.table.Name, err)
	}
	p.fillGuard()
	p.fillDoors(nil)
	p.fillInput()
	p.rule(p.forward, p.in(), verdict(expr.VerdictDrop))
	p.rule(p.forward, p.out(), verdict(expr.VerdictDrop))
	if err := nft.Flush(); err != nil {
		_ = nft.CloseLasting()
		return nil, fmt.Errorf("set up nftables table %s: %w", p.table.Name, err)
	}
	return p, nil
}

func (p *policy) close() error {
	p.nft.DelTable(p.table)
	err := p.nft.Flush()
	_ = p.nft.CloseLasting()
	if err != nil {
		return fmt.Errorf("remove nftables table %s: %w", p.table.Name, err)
	}
	return nil
}

// notOurs are sources that no peer can have and that the kernel does not refuse by itself.
var notOurs = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")}

func (p *policy) fillGuard() {
	p.rule(p.guard, p.in(), goTo(p.inside))
	for _, four := range []bool{true, false} {
		// The kernel answers for its addresses on every interface: what did not come encrypted must not reach ours. Loopback is
		// the machine itself.
		p.rule(p.guard, p.isOwn(destination, four), not(iifname("lo")), verdict(expr.VerdictDrop))
		p.rule(p.inside, p.isOwn(source, four), verdict(expr.VerdictDrop))
	}
	for _, n := range notOurs {
		p.rule(p.inside, address(source, n), verdict(expr.VerdictDrop))
	}
	for _, four := range []bool{true, false} {
		p.rule(p.inside, p.isOwn(destination, four), verdict(expr.VerdictAccept))
	}
	p.rule(p.inside, verdict(expr.VerdictDrop))
}

func (p *policy) fillInput() {
	const dnat = 1 << 5 // IPS_DST_NAT
	reply := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	p.rule(p.input, not(p.in()), verdict(expr.VerdictAccept))
	p.rule(p.input, ct(expr.CtKeySTATE, reply), verdict(expr.VerdictAccept))
	p.rule(p.input, ct(expr.CtKeySTATUS, dnat), verdict(expr.VerdictAccept))
	p.rule(p.input, ct(expr.CtKeySTATE, expr.CtStateBitINVALID), verdict(expr.VerdictDrop))
	p.rule(p.input, l4proto(unix.IPPROTO_ICMP), transport(0, []byte{8}), verdict(expr.VerdictAccept))
	p.rule(p.input, l4proto(unix.IPPROTO_ICMPV6), transport(0, []byte{128}), verdict(expr.VerdictAccept))
	p.rule(p.input, l4proto(unix.IPPROTO_ICMP), verdict(expr.VerdictDrop))
	p.rule(p.input, l4proto(unix.IPPROTO_ICMPV6), verdict(expr.VerdictDrop))
	p.rule(p.input, l4proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	p.rule(p.input, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
}

func (p *policy) rule(c *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, x := range parts {
		all = append(all, x...)
	}
	p.nft.AddRule(&nftables.Rule{Table: p.table, Chain: c, Exprs: all})
}

func (p *policy) in() []expr.Any  { return iifname(p.iface) }
func (p *policy) out() []expr.Any { return metaIs(expr.MetaKeyOIFNAME, ifname(p.iface)) }

func iifname(name string) []expr.Any { return metaIs(expr.MetaKeyIIFNAME, ifname(name)) }
func l4proto(proto byte) []expr.Any  { return metaIs(expr.MetaKeyL4PROTO, []byte{proto}) }

func ifname(s string) []byte { return append([]byte(s), make([]byte, unix.IFNAMSIZ-len(s))...) }

func port(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func metaIs(key expr.MetaKey, want []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want}}
}

// not turns the last comparison of a match around.
func not(match []expr.Any) []expr.Any {
	match[len(match)-1].(*expr.Cmp).Op = expr.CmpOpNeq
	return match
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// goTo leaves the chain for another and does not come back.
func goTo(c *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}}
}

// transport compares bytes of the TCP, UDP or ICMP header.
func transport(offset uint32, want []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(want))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
	}
}

// ct matches where any of the bits is set.
func ct(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// which of a packet's addresses.
type which int

const (
	source which = iota
	destination
)

// load puts a packet's address into the first register, and matches packets of that family alone.
func load(w which, four bool) []expr.Any {
	family, offset, size := byte(unix.NFPROTO_IPV6), uint32(8), uint32(16)
	if four {
		family, offset, size = unix.NFPROTO_IPV4, 12, 4
	}
	if w == destination {
		offset += size
	}
	return append(metaIs(expr.MetaKeyNFPROTO, []byte{family}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
}

// address matches packets whose address is in the prefix.
func address(w which, in netip.Prefix) []expr.Any {
	out := load(w, in.Addr().Is4())
	size := uint32(in.Addr().BitLen() / 8)
	if in.Bits() != in.Addr().BitLen() {
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: ipNet(in).Mask, Xor: make([]byte, size)})
	}
	return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: in.Addr().AsSlice()})
}
