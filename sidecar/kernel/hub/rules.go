//go:build linux

package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/nft"
	"github.com/tenantwire/tenantwire/sidecar/pathmtu"
)

// The counters: of drops, by their reasons.
const (
	notForwarded = datapath.DropNotForwarded
	hopLimit     = datapath.DropHopLimit
	receiveLimit = datapath.DropReceiveLimit
	sendLimit    = datapath.DropSendLimit
	long         = "long"
)

var reasons = []string{notForwarded, hopLimit, receiveLimit, sendLimit}

// limited is one direction of the limits.
type limited struct {
	chain   *nftables.Chain // its rules are there while there is a limit
	which   nft.Which       // address that is the peer's
	counter string
	used    *nftables.Set // what each outside peer has used; nil: there is no limit
}

// build makes the table, without peers. What a process that died left goes in the same transaction.
func (h *Hub) build() error {
	h.conn.Anew(h.table)
	for _, name := range append(reasons, long) {
		h.conn.AddObj(nft.Counter(h.table, name))
	}
	pass := h.chain("pass")
	nft.Add(h.conn, pass, nft.Longer(pathmtu.Floor), nft.Count(long))
	hops, err := h.addHops()
	if err != nil {
		return err
	}
	in, receiving := h.hook("in", nftables.ChainHookIngress), h.chain("receiving")
	h.limited = [2]*limited{{chain: receiving, which: nft.Source, counter: receiveLimit},
		{chain: h.hook("out", nftables.ChainHookEgress), which: nft.Destination, counter: sendLimit}}
	nft.Add(h.conn, in, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: receiving.Name}})
	for _, four := range []bool{true, false} {
		if err := h.addFamily(four, in, pass, hops); err != nil {
			return err
		}
	}
	nft.Add(h.conn, in, nft.Verdict(expr.VerdictDrop))
	err = errors.Join(h.limit(h.limited[0], h.bits), h.limit(h.limited[1], h.bits), h.conn.Flush())
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return fmt.Errorf("nftables of this kernel has no hook for what leaves a device (Linux 5.16): %w", err)
	}
	if err != nil {
		return err
	}
	return h.addForward(pass)
}

func (h *Hub) chain(name string) *nftables.Chain {
	return h.conn.AddChain(&nftables.Chain{Name: name, Table: h.table})
}

func (h *Hub) hook(name string, at *nftables.ChainHook) *nftables.Chain {
	priority := *nftables.ChainPriorityFilter
	return h.conn.AddChain(&nftables.Chain{Name: name, Table: h.table, Type: nftables.ChainTypeFilter, Hooknum: at, Priority: &priority, Device: h.iface})
}

// addHops adds what is one less: there is no subtraction.
func (h *Hub) addHops() (*nftables.Set, error) {
	hops := &nftables.Set{Table: h.table, Name: "hops", KeyType: nftables.TypeInetProto, DataType: nftables.TypeInetProto, IsMap: true}
	var less []nftables.SetElement
	for n := byte(255); n > 1; n-- {
		less = append(less, nftables.SetElement{Key: []byte{n}, Val: []byte{n - 1}})
	}
	return hops, h.conn.AddSet(hops, less)
}

// addFamily adds the sets and chains of IPv4 or IPv6.
func (h *Hub) addFamily(four bool, in, pass *nftables.Chain, hops *nftables.Set) error {
	f, kind, digit := &family{four: four}, nftables.TypeIP6Addr, "6"
	if four {
		kind, digit = nftables.TypeIPAddr, "4"
	}
	f.own = &nftables.Set{Table: h.table, Name: "own" + digit, KeyType: kind}
	f.inside = &nftables.Set{Table: h.table, Name: "inside" + digit, KeyType: kind, Interval: true}
	f.outside = &nftables.Set{Table: h.table, Name: "outside" + digit, KeyType: kind, Interval: true, IsMap: true, DataType: nftables.TypeMark}
	f.clamp = &nftables.Set{Table: h.table, Name: "clamp" + digit, KeyType: kind, Interval: true, IsMap: true, DataType: nftables.TypeInetService}
	for _, s := range []*nftables.Set{f.own, f.inside, f.outside, f.clamp} {
		if err := h.conn.AddSet(s, nil); err != nil {
			return err
		}
	}
	f.kinds = layer{sets: []*nftables.Set{f.inside, f.outside}, place: func(of uint32) (*nftables.Set, []byte) {
		if of == insider {
			return f.inside, nil
		}
		return f.outside, binaryutil.NativeEndian.PutUint32(of)
	}}
	f.clamps = layer{sets: []*nftables.Set{f.clamp}, place: func(of uint32) (*nftables.Set, []byte) { return f.clamp, nft.Port(uint16(of)) }}
	h.families = append(h.families, f)
	age := h.addAge(f, "age"+digit, pass, hops)
	arrived := h.chain("in" + digit)
	from := func(s *nftables.Set) []expr.Any { return append(nft.Load(nft.Source, four), nft.Among(s)...) }
	to := func(s *nftables.Set) []expr.Any { return append(nft.Load(nft.Destination, four), nft.Among(s)...) }
	nft.Add(h.conn, arrived, to(f.own), nft.Verdict(expr.VerdictAccept))
	nft.Add(h.conn, arrived, from(f.outside), to(f.inside), nft.GoTo(age))
	nft.Add(h.conn, arrived, from(f.inside), to(f.outside), nft.GoTo(age))
	nft.Add(h.conn, arrived, nft.Count(notForwarded), nft.Verdict(expr.VerdictDrop))
	nft.Add(h.conn, in, nft.EtherType(four), nft.GoTo(arrived))
	return nil
}

// addAge adds the chain that takes one from the hops that a packet may make, unless it may make no more, and has who begins a TCP connection
// announce no more than the path to it takes.
func (h *Hub) addAge(f *family, name string, pass *nftables.Chain, hops *nftables.Set) *nftables.Chain {
	c := h.chain(name)
	at := uint32(7)
	if f.four {
		at = 8
	}
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: 1}
	store := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: 1}
	if f.four {
		store.CsumType, store.CsumOffset = expr.CsumTypeInet, 10
	}
	nft.Add(h.conn, c, []expr.Any{load, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{1}}}, nft.Count(hopLimit), nft.Verdict(expr.VerdictDrop))
	nft.Add(h.conn, c, []expr.Any{load}, nft.Among(hops), []expr.Any{store})
	nft.Add(h.conn, c, nft.L4(unix.IPPROTO_TCP), synchronizes(), nft.Load(nft.Source, f.four), nft.Among(f.clamp), announce())
	nft.Add(h.conn, c, nft.GoTo(pass))
	return c
}

// synchronizes matches the first segment of a TCP connection, from either end.
func synchronizes() []expr.Any {
	const flags, syn = 13, 2
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}}}
}

// announce makes the greatest segment that a TCP takes no more than what is in the first register. The kernel makes it less, never more.
func announce() []expr.Any {
	const maximumSegmentSize = 2
	return []expr.Any{&expr.Exthdr{SourceRegister: 1, Type: maximumSegmentSize, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt}}
}

// limit holds outside peers to a number of bits per second in one direction; zero: to none. Members are not among those who have numbers. Each limit
// has a set of its own: by the rules that go, packets would fill the one that is emptied, and what is in it keeps its limit.
func (h *Hub) limit(l *limited, bits int64) error {
	// Who has not sent for as long has its whole limit again.
	const forget = time.Minute
	h.conn.FlushChain(l.chain)
	if l.used != nil {
		h.conn.DelSet(l.used)
		l.used = nil
	}
	if bits == 0 {
		return nil
	}
	h.limits++
	l.used = &nftables.Set{Table: h.table, Name: fmt.Sprint(l.counter, h.limits), KeyType: nftables.TypeMark, Dynamic: true, HasTimeout: true, Timeout: forget, Size: delta.MaxPeers}
	if err := h.conn.AddSet(l.used, nil); err != nil {
		return err
	}
	// The kernel's bucket holds what passes in a second besides.
	over := &expr.Limit{Type: expr.LimitTypePktBytes, Rate: uint64(bits) / 8, Unit: expr.LimitTimeSecond, Burst: 64 << 10, Over: true}
	for _, f := range h.families {
		nft.Add(h.conn, l.chain, nft.EtherType(f.four), nft.Load(l.which, f.four), nft.Among(f.outside), []expr.Any{
			&expr.Dynset{SrcRegKey: 1, SetName: l.used.Name, SetID: l.used.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{over}}},
			nft.Count(l.counter), nft.Verdict(expr.VerdictDrop))
	}
	return nil
}

// addForward adds the one rule that the library has no words for: out by the interface, as it is.
func (h *Hub) addForward(to *nftables.Chain) error {
	const sourceRegister = 1 // NFTA_FWD_SREG_DEV
	load, err := expr.Marshal(byte(h.table.Family), &expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(h.index)})
	if err != nil {
		return err
	}
	rule := netlink.NewAttributeEncoder()
	rule.String(unix.NFTA_RULE_TABLE, h.table.Name)
	rule.String(unix.NFTA_RULE_CHAIN, to.Name)
	rule.Nested(unix.NFTA_RULE_EXPRESSIONS, func(list *netlink.AttributeEncoder) error {
		list.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, load)
		list.Nested(unix.NFTA_LIST_ELEM, func(e *netlink.AttributeEncoder) error {
			e.String(unix.NFTA_EXPR_NAME, "fwd")
			e.Nested(unix.NFTA_EXPR_DATA, func(d *netlink.AttributeEncoder) error {
				d.Bytes(sourceRegister, binaryutil.BigEndian.PutUint32(unix.NFT_REG_1))
				return nil
			})
			return nil
		})
		return nil
	})
	data, err := rule.Encode()
	if err != nil {
		return err
	}
	err = h.conn.Do(netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE,
		Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Append}, Data: append([]byte{byte(h.table.Family), 0, 0, 0}, data...)})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this kernel cannot pass packets on in nftables (module nft_fwd_netdev): %w", err)
	}
	return err
}
