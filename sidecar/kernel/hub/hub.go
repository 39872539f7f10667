//go:build linux

// Package hub passes packets on between the peers of one kernel WireGuard interface, in the kernel: what a router does, in a network namespace
// that may not be one (net.ipv4.ip_forward and its like are read-only in a container). An nftables chain sees what peers send as it comes out of
// the interface, before any routing, and sends it back out by the same interface:
//
//	in    over the peer's limit? -> for ourselves: to the stack -> between an outside peer and another: age -> the rest is dropped
//	age   one hop less
//	pass  counted, if long -> out by the interface
//	out   over the peer's limit? -> to WireGuard, which knows whose the destination is, and encrypts
//
// Whom a packet comes from WireGuard has proved by the source address, as it allows each peer its own alone; whom it goes to it finds by the
// destination. What is asked here is what kind of peers they are. Sets say so (regions.go), in which no address has two meanings.
//
// Sets and limits change while packets pass: a change touches nobody whom it does not name, but where it is too much for one transaction (layer.go).
package hub

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/nft"
)

// Hub is the table of one interface, which is there while packets are passed on. All methods are safe for concurrent use.
type Hub struct {
	mu    sync.Mutex
	conn  *nft.Conn
	iface string
	index uint32
	table *nftables.Table
	on    bool

	limited  [2]*limited // what comes in, and what goes out
	families []*family
	mine     []netip.Addr // the interface's own addresses

	peers   delta.Registry
	numbers map[key.Public]uint32 // of outside peers
	last    uint32                // number that was given
	bits    int64                 // the limit
	limits  int                   // how often it was changed

	past map[string]uint64 // what earlier tables had dropped
}

// family is what there is of IPv4 and of IPv6 each.
type family struct {
	four    bool
	own     *nftables.Set // the interface's addresses
	inside  *nftables.Set // those of peers that are not outside
	outside *nftables.Set // those of outside peers, with the number of each
	clamp   *nftables.Set // peers to which the path is short, and the greatest TCP segment each may announce
	kinds   layer         // what inside and outside are
	clamps  layer         // what clamp is
}

// insider is whose the addresses of all peers are that are not outside. Each outside peer has a greater number.
const insider = nobody + 1

// New is for the interface of that name and index, which it does not make a hub yet. What a process that died left is taken away: it would hold for
// the new interface of that name.
func New(iface string, index int) (*Hub, error) {
	conn, err := nft.Open()
	if err != nil {
		return nil, err
	}
	h := &Hub{conn: conn, iface: iface, index: uint32(index), numbers: map[key.Public]uint32{}, last: insider,
		table: &nftables.Table{Name: "tenantwire-hub-" + iface, Family: nftables.TableFamilyNetdev}}
	if _, err := conn.ListTableOfFamily(h.table.Name, h.table.Family); err == nil {
		if err := h.end(); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return h, nil
}

// Switch begins to pass packets on, between those that Set says next, or ends it.
func (h *Hub) Switch(on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on == on {
		return nil
	}
	if !on {
		if so, err := h.dropped(); err == nil {
			h.past = so
		}
		return h.end()
	}
	h.families, h.mine, h.on = nil, nil, true
	if err := h.build(); err != nil {
		return fmt.Errorf("set up nftables table %s: %w", h.table.Name, errors.Join(err, h.end()))
	}
	return nil
}

// end takes the table away.
func (h *Hub) end() error {
	h.on = false
	h.conn.Remove(h.table)
	if err := h.conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", h.table.Name, err)
	}
	return nil
}

// Close ends it for good.
func (h *Hub) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	if h.on {
		err = h.end()
	}
	h.conn.Close()
	return err
}

// Set makes these the interface's own addresses and these its peers, while change makes them so elsewhere: an address that is somebody else's
// afterwards is nobody's meanwhile, and all others are passed on as before. After an error undo has made elsewhere what was, and all is as it was; if it
// cannot, addresses stay nobody's. Where nothing is passed on, it is change alone, and undo after an error.
func (h *Hub) Set(own []netip.Addr, peers delta.Registry, change, undo func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		if err := change(); err != nil {
			return errors.Join(err, undo())
		}
		return nil
	}
	before, next := [2][]region{h.families[0].kinds.regions, h.families[1].kinds.regions}, split(regionsOf(h.ranges(own, peers)))
	both := [2][]region{common(before[0], next[0]), common(before[1], next[1])}
	err := h.become(both)
	if err == nil {
		err = change()
	}
	if err == nil {
		err = h.become(next)
	}
	if err == nil {
		err = h.setOwn(own)
	}
	if err != nil {
		err = errors.Join(err, h.become(both))
		if cannot := undo(); cannot != nil {
			return errors.Join(err, cannot)
		}
		return errors.Join(err, h.become(before))
	}
	h.mine, h.peers = own, peers // replaced when they change, never written to
	maps.DeleteFunc(h.numbers, func(k key.Public, _ uint32) bool { return !peers[k].Outside })
	return nil
}

func (h *Hub) become(kinds [2][]region) error {
	return errors.Join(h.families[0].kinds.become(h.conn, kinds[0]), h.families[1].kinds.become(h.conn, kinds[1]))
}

// setOwn says what is for the interface itself.
func (h *Hub) setOwn(own []netip.Addr) error {
	if slices.Equal(own, h.mine) {
		return nil
	}
	for _, f := range h.families {
		var elements []nftables.SetElement
		for _, a := range own {
			if a.Is4() == f.four {
				elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		if err := h.conn.Fill(f.own, elements); err != nil {
			return err
		}
	}
	if err := h.conn.Flush(); err != nil {
		return fmt.Errorf("set own addresses in nftables: %w", err)
	}
	return nil
}

// ranges are all that is somebody's, with what is nobody's among them.
func (h *Hub) ranges(own []netip.Addr, peers delta.Registry) []owned {
	special := datapath.Special()
	out := nobodys()
	for k, p := range peers {
		of := uint32(insider)
		if p.Outside {
			of = h.number(k)
		}
		for _, ip := range p.AllowedIPs {
			if !slices.ContainsFunc(special, func(s netip.Prefix) bool { return s.Bits() <= ip.Bits() && s.Contains(ip.Addr()) }) {
				out = append(out, owned{ip, of})
			}
		}
	}
	for _, a := range own {
		out = append(out, owned{netip.PrefixFrom(a, a.BitLen()), nobody})
	}
	return out
}

// nobodys are the ranges that no peer has.
func nobodys() (out []owned) {
	for _, p := range datapath.Special() {
		out = append(out, owned{p, nobody})
	}
	return out
}

// number stands for an outside peer as long as it is one: what it has used of its limit stays used.
func (h *Hub) number(k key.Public) uint32 {
	n, ok := h.numbers[k]
	if !ok {
		h.last++
		n = h.last
		h.numbers[k] = n
	}
	return n
}

// split parts IPv4 from IPv6, in the order of the families.
func split(all []region) [2][]region {
	i := slices.IndexFunc(all, func(r region) bool { return r.first.Is6() })
	if i < 0 {
		i = len(all)
	}
	return [2][]region{all[:i:i], all[i:]}
}

// SetPathMTUs says how long the packets to some of the peers' allowed IPs may be, in bytes. There is nobody here who could tell a sender that what it
// has sent is too long; but TCP is told beforehand, as the peer that would get it announces how much it takes.
func (h *Hub) SetPathMTUs(mtus map[netip.Prefix]int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		return nil
	}
	list := nobodys()
	for _, p := range h.peers {
		for _, ip := range p.AllowedIPs {
			list = append(list, owned{ip, segmentOf(ip, mtus[ip])})
		}
	}
	next := split(regionsOf(list))
	if err := errors.Join(h.families[0].clamps.become(h.conn, next[0]), h.families[1].clamps.become(h.conn, next[1])); err != nil {
		return fmt.Errorf("set the MTU of paths in nftables: %w", err)
	}
	return nil
}

// segmentOf is the greatest TCP segment in packets of that length, which is pathmtu.Floor at least; none where it is zero.
func segmentOf(ip netip.Prefix, mtu int) uint32 {
	switch {
	case mtu == 0:
		return nobody
	case ip.Addr().Is4():
		return uint32(mtu - 40)
	}
	return uint32(max(mtu, datapath.MinMTU) - 60)
}

// SetBandwidth is how much each outside peer may send, and be sent, in bits per second; zero: as much as there is. It counts packets as they
// are inside the tunnel. A change forgives what was used.
func (h *Hub) SetBandwidth(bits int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if bits == h.bits || !h.on {
		h.bits = bits
		return nil
	}
	was := [2]limited{*h.limited[0], *h.limited[1]}
	err := errors.Join(h.limit(h.limited[0], bits), h.limit(h.limited[1], bits), h.conn.Flush())
	if err != nil {
		*h.limited[0], *h.limited[1] = was[0], was[1]
		return fmt.Errorf("set limits in nftables: %w", err)
	}
	h.bits = bits
	return nil
}

// Drops is what was dropped, by reason; nil until packets are passed on.
func (h *Hub) Drops() (map[string]uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dropped()
}

// dropped is what the table has dropped and those before it.
func (h *Hub) dropped() (map[string]uint64, error) {
	if !h.on {
		return maps.Clone(h.past), nil
	}
	out := map[string]uint64{}
	for _, name := range reasons {
		n, err := h.conn.Counted(h.table, name)
		if err != nil {
			return nil, err
		}
		out[name] = h.past[name] + n
	}
	return out, nil
}

// Long is how many packets of more than pathmtu.Floor bytes were passed on.
func (h *Hub) Long() (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		return 0, nil
	}
	return h.conn.Counted(h.table, long)
}
