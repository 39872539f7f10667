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
	conn                                 *nft.Conn
	table                                *nftables.Table
	iface                                string
	guard, inside, doors, input, forward *nftables.Chain

	own     map[bool]*nftables.Set     // the interface's addresses, by whether they are IPv4
	special map[bool]*nftables.Set     // those that no peer can have
	doorAt  map[doorKind]*nftables.Set // doors at one address alone
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
	conn, err := nft.Open()
	if err != nil {
		return nil, err
	}
	p := &policy{conn: conn, iface: iface, table: &nftables.Table{Name: tableName(iface), Family: nftables.TableFamilyINet}}
	conn.Anew(p.table)
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Name: name, Table: p.table, Type: kind, Hooknum: hook, Priority: &priority})
	}
	p.guard = chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	p.inside = conn.AddChain(&nftables.Chain{Name: "inside", Table: p.table})
	p.doors = chain("doors", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	p.input = chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter)
	p.forward = chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	if err := p.addSets(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up nftables table %s: %w", p.table.Name, err)
	}
	p.addCounters()
	p.fillGuard()
	p.fillDoors(nil)
	p.fillInput()
	p.rule(p.forward, p.in(), drop(datapath.DropNotForwarded))
	p.rule(p.forward, p.out(), drop(datapath.DropNotForwarded))
	if err := conn.Flush(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up nftables table %s: %w", p.table.Name, err)
	}
	return p, nil
}

func (p *policy) close() error {
	p.conn.DelTable(p.table)
	err := p.conn.Flush()
	p.conn.Close()
	if err != nil {
		return fmt.Errorf("remove nftables table %s: %w", p.table.Name, err)
	}
	return nil
}

func (p *policy) fillGuard() {
	p.rule(p.guard, p.in(), nft.GoTo(p.inside))
	for _, four := range []bool{true, false} {
		// The kernel answers for its addresses on every interface: what did not come encrypted must not reach ours. Loopback is
		// the machine itself.
		p.rule(p.guard, p.isOwn(nft.Destination, four), nft.Not(nft.From("lo")), drop(datapath.DropUnauthentic))
		p.rule(p.inside, p.isOwn(nft.Source, four), drop(datapath.DropForeignSource))
		// The kernel refuses some of these by itself, later, and counts them nowhere.
		p.rule(p.inside, load(nft.Source, four), nft.Among(p.special[four]), drop(datapath.DropForeignSource))
	}
	for _, four := range []bool{true, false} {
		p.rule(p.inside, p.isOwn(nft.Destination, four), nft.Verdict(expr.VerdictAccept))
	}
	p.rule(p.inside, drop(datapath.DropForeignDestination))
}

func (p *policy) fillInput() {
	const dnat = 1 << 5 // IPS_DST_NAT
	reply := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	p.rule(p.input, nft.Not(p.in()), nft.Verdict(expr.VerdictAccept))
	p.rule(p.input, nft.Tracked(expr.CtKeySTATE, reply), nft.Verdict(expr.VerdictAccept))
	p.rule(p.input, nft.Tracked(expr.CtKeySTATUS, dnat), nft.Verdict(expr.VerdictAccept))
	p.rule(p.input, nft.Tracked(expr.CtKeySTATE, expr.CtStateBitINVALID), drop(datapath.DropRefused))
	p.rule(p.input, nft.L4(unix.IPPROTO_ICMP), nft.Transport(0, []byte{8}), nft.Verdict(expr.VerdictAccept))
	p.rule(p.input, nft.L4(unix.IPPROTO_ICMPV6), nft.Transport(0, []byte{128}), nft.Verdict(expr.VerdictAccept))
	p.rule(p.input, nft.Count(datapath.DropRefused)) // all that is left
	p.rule(p.input, nft.L4(unix.IPPROTO_ICMP), nft.Verdict(expr.VerdictDrop))
	p.rule(p.input, nft.L4(unix.IPPROTO_ICMPV6), nft.Verdict(expr.VerdictDrop))
	p.rule(p.input, nft.L4(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	p.rule(p.input, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
}

func (p *policy) rule(c *nftables.Chain, parts ...[]expr.Any) { nft.Add(p.conn, c, parts...) }

func (p *policy) in() []expr.Any  { return nft.From(p.iface) }
func (p *policy) out() []expr.Any { return nft.To(p.iface) }

// load puts a packet's address into the first register, and matches packets of that family alone.
func load(w nft.Which, four bool) []expr.Any { return append(nft.Family(four), nft.Load(w, four)...) }
