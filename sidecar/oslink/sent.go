//go:build linux

package oslink

import (
	"fmt"
	"net"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/nft"
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

// countLong adds the one chain that what leaves passes. Whether it leaves by the interface is asked first: most does not, the tunnel's own
// encrypted packets among it.
func (p *policy) countLong(size uint32) error {
	priority := *nftables.ChainPriorityFilter
	chain := p.conn.AddChain(&nftables.Chain{Name: "sent", Table: p.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: &priority})
	p.conn.AddObj(nft.Counter(p.table, longSent))
	p.rule(chain, p.out(), nft.Not(nft.L4(unix.IPPROTO_ICMP)), nft.Not(nft.L4(unix.IPPROTO_ICMPV6)), nft.Longer(size), nft.Count(longSent))
	if err := p.conn.Flush(); err != nil {
		return fmt.Errorf("count packets: %w", err)
	}
	return nil
}

func (p *policy) longSent() (uint64, error) { return p.conn.Counted(p.table, longSent) }
