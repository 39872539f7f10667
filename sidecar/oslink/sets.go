//go:build linux

package oslink

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/nft"
)

// doorKind is what doors at one address alone have in common: they are in one map, from address and port to the port of the listener.
type doorKind struct {
	proto byte // unix.IPPROTO_TCP or UDP
	four  bool
}

var doorKinds = []doorKind{{unix.IPPROTO_TCP, true}, {unix.IPPROTO_TCP, false}, {unix.IPPROTO_UDP, true}, {unix.IPPROTO_UDP, false}}

// mostAddresses is how many an interface can have of each family. With a bound the kernel takes a hash of fixed size, which costs each
// packet that is not the tunnel's least.
const mostAddresses = 512

// addSets makes the sets, empty but for what no peer can have, in the transaction that makes the table.
func (p *policy) addSets() error {
	p.own, p.special, p.doorAt = map[bool]*nftables.Set{}, map[bool]*nftables.Set{}, map[doorKind]*nftables.Set{}
	for four, kind := range map[bool]nftables.SetDatatype{true: nftables.TypeIPAddr, false: nftables.TypeIP6Addr} {
		p.own[four] = &nftables.Set{Table: p.table, Name: "own" + family(four), KeyType: kind, Size: mostAddresses}
		if err := p.conn.AddSet(p.own[four], nil); err != nil {
			return err
		}
		p.special[four] = &nftables.Set{Table: p.table, Name: "special" + family(four), KeyType: kind, Interval: true}
		if err := p.conn.AddSet(p.special[four], special(four)); err != nil {
			return err
		}
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			s := &nftables.Set{Table: p.table, Name: map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[proto] + family(four), IsMap: true,
				KeyType: nftables.MustConcatSetType(kind, nftables.TypeInetService), DataType: nftables.TypeInetService}
			p.doorAt[doorKind{proto, four}] = s
			if err := p.conn.AddSet(s, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// special are the ranges of addresses that no peer can have, as elements.
func special(four bool) (out []nftables.SetElement) {
	for _, p := range datapath.Special() {
		if p.Addr().Is4() != four {
			continue
		}
		out = append(out, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := after(p); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// after is the first address behind a range; none where that is the last of all.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last.Next()
}

func family(four bool) string {
	if four {
		return "4"
	}
	return "6"
}

// isOwn matches packets one of whose addresses is the interface's.
func (p *policy) isOwn(w nft.Which, four bool) []expr.Any {
	return append(load(w, four), nft.Among(p.own[four])...)
}

// setOwn says which addresses are the interface's.
func (p *policy) setOwn(own []netip.Addr) error {
	elements := map[bool][]nftables.SetElement{}
	for _, a := range own {
		elements[a.Is4()] = append(elements[a.Is4()], nftables.SetElement{Key: a.AsSlice()})
	}
	for four, s := range p.own {
		if n := len(elements[four]); n > mostAddresses {
			return fmt.Errorf("%d addresses of IPv%s: want at most %d", n, family(four), mostAddresses)
		}
		if err := p.conn.Fill(s, elements[four]); err != nil {
			return fmt.Errorf("set addresses in nftables: %w", err)
		}
	}
	if err := p.conn.Flush(); err != nil {
		return fmt.Errorf("set addresses in nftables: %w", err)
	}
	return nil
}

// setDoors says which ports are open. Connections that exist keep the way they came.
func (p *policy) setDoors(open []door) error {
	var each []door
	elements := map[doorKind][]nftables.SetElement{}
	for _, d := range open {
		if !d.at.IsValid() {
			each = append(each, d)
			continue
		}
		kind := doorKind{d.proto, d.at.Is4()}
		key := append(append(d.at.AsSlice(), nft.Port(d.from)...), 0, 0) // in whole registers
		elements[kind] = append(elements[kind], nftables.SetElement{Key: key, Val: nft.Port(d.to)})
	}
	p.conn.FlushChain(p.doors)
	p.fillDoors(each)
	for kind, s := range p.doorAt {
		if err := p.conn.Fill(s, elements[kind]); err != nil {
			return fmt.Errorf("set open ports in nftables: %w", err)
		}
	}
	if err := p.conn.Flush(); err != nil {
		return fmt.Errorf("set open ports in nftables: %w", err)
	}
	return nil
}

// fillDoors leads what comes in for one of these ports, and what is in the maps, to their listeners. The address stays: only the port
// is another, so that the socket sees which of our addresses was meant.
func (p *policy) fillDoors(each []door) {
	redirect := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_INET, RegProtoMin: 1, Specified: true}
	for _, d := range each {
		p.rule(p.doors, p.in(), nft.L4(d.proto), nft.Transport(2, nft.Port(d.from)), []expr.Any{&expr.Immediate{Register: 1, Data: nft.Port(d.to)}, redirect})
	}
	for _, k := range doorKinds {
		s := p.doorAt[k]
		after := uint32(unix.NFT_REG32_01) // the register after the address, in which the key goes on
		if !k.four {
			after = unix.NFT_REG32_04
		}
		p.rule(p.doors, p.in(), nft.L4(k.proto), load(nft.Destination, k.four), []expr.Any{
			&expr.Payload{DestRegister: after, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}, redirect})
	}
}
