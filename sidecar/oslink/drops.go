//go:build linux

package oslink

import (
	"fmt"
	"net"

	"github.com/google/nftables/expr"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/nft"
)

// reasons are those of what the table drops, and the names of its counters. They are objects of the table and not parts of rules: rules are
// replaced, and what they have counted stays.
var reasons = []string{datapath.DropUnauthentic, datapath.DropForeignSource, datapath.DropForeignDestination, datapath.DropNotForwarded, datapath.DropRefused}

// AddDrops adds what the table and the doors have dropped since the Link was opened, by reason. What comes to the table merged counts as one.
func (l *Link) AddDrops(to map[string]uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("read dropped packets: %w", net.ErrClosed)
	}
	to[datapath.DropOverLimit] += l.overLimit.Load()
	return l.policy.addDrops(to)
}

// addCounters makes the counters, in the transaction that makes the table.
func (p *policy) addCounters() {
	for _, why := range reasons {
		p.conn.AddObj(nft.Counter(p.table, why))
	}
}

func (p *policy) addDrops(to map[string]uint64) error {
	for _, why := range reasons {
		n, err := p.conn.Counted(p.table, why)
		if err != nil {
			return err
		}
		to[why] += n
	}
	return nil
}

// drop drops a packet and counts it.
func drop(why string) []expr.Any { return append(nft.Count(why), nft.Verdict(expr.VerdictDrop)...) }
