//go:build linux

package oslink

import (
	"errors"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// longSent names the counter, in the interface's table.
const longSent = "long"

// CountLong has packets of more than size bytes counted that leave by the interface, but for ICMP. It is called once.
func (l *Link) CountLong(size int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("count packets: %w", net.ErrClosed)
	}
	return l.policy.countLong(uint32(size))
}

// LongSent is how many there were, as the kernel sends them: what leaves merged counts as one.
func (l *Link) LongSent() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, fmt.Errorf("read counted packets: %w", net.ErrClosed)
	}
	return l.policy.longSent()
}

func (p *policy) counter() *nftables.NamedObj {
	return &nftables.NamedObj{Table: p.table, Name: longSent, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

// countLong adds the one chain that what leaves passes. Whether it leaves by the interface is asked first: most does not, the tunnel's own
// encrypted packets among it.
func (p *policy) countLong(size uint32) error {
	priority := *nftables.ChainPriorityFilter
	chain := p.nft.AddChain(&nftables.Chain{Name: "sent", Table: p.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: &priority})
	p.nft.AddObj(p.counter())
	p.rule(chain, p.out(), not(l4proto(unix.IPPROTO_ICMP)), not(l4proto(unix.IPPROTO_ICMPV6)), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyLEN, Register: 1},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint32(size)},
		&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: longSent},
	})
	if err := p.nft.Flush(); err != nil {
		return fmt.Errorf("count packets: %w", err)
	}
	return nil
}

func (p *policy) longSent() (uint64, error) {
	o, err := p.nft.GetObject(p.counter())
	if err != nil {
		return 0, fmt.Errorf("read counted packets: %w", err)
	}
	if named, ok := o.(*nftables.NamedObj); ok {
		if c, ok := named.Obj.(*expr.Counter); ok {
			return c.Packets, nil
		}
	}
	return 0, errors.New("read counted packets: the kernel knows of none")
}
