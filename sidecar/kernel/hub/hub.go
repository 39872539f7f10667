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
// Sets and limits change while packets pass: a change touches nobody whom it does not name.
package hub

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/nft"
)

// Hub is the table of one interface, which is there while packets are passed on. All methods are safe for concurrent use.
type Hub struct {
	mu    sync.Mutex
	conn  *nftables.Conn
	raw   *netlink.Conn // for what the library has no words for
	iface string
	index uint32
	table *nftables.Table
	on    bool

	limited  [2]limited // what comes in, and what goes out
	families []*family
	broken   bool // inside and outside are not what their regions say

	peers   delta.Registry
	numbers map[key.Public]uint32 // of outside peers
	last    uint32                // number that was given
	bits    int64                 // the limit
}

// family is what there is of IPv4 and of IPv6 each.
type family struct {
	four    bool
	own     *nftables.Set // the interface's addresses
	inside  *nftables.Set // those of peers that are not outside
	outside *nftables.Set // those of outside peers, with the number of each
	clamp   *nftables.Set // peers to which the path is short, and the greatest TCP segment each may announce
	regions []region      // what inside and outside are
	clamped []region      // what clamp is
	mine    []netip.Addr  // what own is
}

// insider is whose the addresses of all peers are that are not outside. Each outside peer has a greater number.
const insider = nobody + 1

// New is for the interface of that name and index, which it does not make a hub yet.
func New(iface string, index int) (*Hub, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	raw, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		_ = conn.CloseLasting()
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &Hub{conn: conn, raw: raw, iface: iface, index: uint32(index), numbers: map[key.Public]uint32{}, last: insider,
		table: &nftables.Table{Name: "tenantwire-hub-" + iface, Family: nftables.TableFamilyNetdev}}, nil
}

// Switch begins to pass packets on, between those that Set says next, or ends it.
func (h *Hub) Switch(on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on == on {
		return nil
	}
	if !on {
		return h.end()
	}
	h.families, h.on = nil, true
	if err := h.build(); err != nil {
		return fmt.Errorf("set up nftables table %s: %w", h.table.Name, errors.Join(err, h.end()))
	}
	return nil
}

// end takes the table away.
func (h *Hub) end() error {
	h.on = false
	h.conn.AddTable(h.table) // so that deleting it cannot fail
	h.conn.DelTable(h.table)
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
	_ = h.conn.CloseLasting()
	_ = h.raw.Close()
	return err
}

// Set makes these the interface's own addresses and these its peers, while change makes them so elsewhere: an address that is somebody else's
// afterwards is nobody's meanwhile, and all others are passed on as before. If change fails, all is as it was. Where nothing is passed on, it is
// change alone.
func (h *Hub) Set(own []netip.Addr, peers delta.Registry, change func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		return change()
	}
	next := split(regionsOf(h.ranges(own, peers)))
	before := [2][]region{}
	for i, f := range h.families {
		before[i] = f.regions
		if err := h.become(f, common(f.regions, next[i])); err != nil {
			return err
		}
	}
	if err := change(); err != nil {
		for i, f := range h.families {
			err = errors.Join(err, h.become(f, before[i]))
		}
		return err
	}
	for i, f := range h.families {
		if err := errors.Join(h.become(f, next[i]), h.setOwn(f, own)); err != nil {
			return err
		}
	}
	h.peers = peers // replaced when it changes, never written to
	maps.DeleteFunc(h.numbers, func(k key.Public, _ uint32) bool { return !peers[k].Outside })
	return nil
}

// ranges are all that is somebody's, with what is nobody's among them.
func (h *Hub) ranges(own []netip.Addr, peers delta.Registry) []owned {
	special := datapath.Special()
	var out []owned
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
	for _, p := range special {
		out = append(out, owned{p, nobody})
	}
	for _, a := range own {
		out = append(out, owned{netip.PrefixFrom(a, a.BitLen()), nobody})
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

// perTransaction is how many regions change at most in one: the kernel takes no message without end.
const perTransaction = 512

// become changes a family's sets. What stays is not touched; few changes are made at once, or not at all.
func (h *Hub) become(f *family, next []region) error {
	was := f.regions
	if h.broken {
		was = nil
		for _, f := range h.families {
			h.conn.FlushSet(f.inside)
			h.conn.FlushSet(f.outside)
			f.regions = nil
		}
	}
	gone, come := changes(was, next)
	for len(gone)+len(come) > 0 || h.broken {
		n := min(len(gone), perTransaction)
		m := min(len(come), perTransaction-n)
		if err := errors.Join(h.each(f, gone[:n], h.conn.SetDeleteElements), h.each(f, come[:m], h.conn.SetAddElements), h.conn.Flush()); err != nil {
			h.broken = true
			return fmt.Errorf("change peers in nftables: %w", err)
		}
		gone, come, h.broken = gone[n:], come[m:], false
	}
	f.regions = next
	return nil
}

// each adds regions to the sets that they belong to, or deletes them there.
func (h *Hub) each(f *family, regions []region, what func(*nftables.Set, []nftables.SetElement) error) error {
	var inside, outside []nftables.SetElement
	for _, r := range regions {
		first, end := nftables.SetElement{Key: r.first.AsSlice()}, nftables.SetElement{Key: r.end.AsSlice(), IntervalEnd: true}
		if r.of == insider {
			inside = append(inside, first, end)
			continue
		}
		first.Val = binaryutil.NativeEndian.PutUint32(r.of)
		outside = append(outside, first, end)
	}
	for s, elements := range map[*nftables.Set][]nftables.SetElement{f.inside: inside, f.outside: outside} {
		for some := range slices.Chunk(elements, perTransaction) {
			if err := what(s, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// setClamp replaces what TCP is told of paths.
func (h *Hub) setClamp(f *family, next []region) error {
	if slices.Equal(f.clamped, next) {
		return nil
	}
	elements := make([]nftables.SetElement, 0, 2*len(next))
	for _, r := range next {
		elements = append(elements, nftables.SetElement{Key: r.first.AsSlice(), Val: nft.Port(uint16(r.of))}, //nolint:gosec // at most 65455
			nftables.SetElement{Key: r.end.AsSlice(), IntervalEnd: true})
	}
	if err := h.replace(f.clamp, elements); err != nil {
		return err
	}
	f.clamped = next
	return nil
}

// replace makes these the elements of a set.
func (h *Hub) replace(s *nftables.Set, elements []nftables.SetElement) error {
	h.conn.FlushSet(s)
	for some := range slices.Chunk(elements, perTransaction) {
		if err := h.conn.SetAddElements(s, some); err != nil {
			return err
		}
	}
	return h.conn.Flush()
}

// setOwn says what is for the interface itself.
func (h *Hub) setOwn(f *family, own []netip.Addr) error {
	mine := slices.DeleteFunc(slices.Clone(own), func(a netip.Addr) bool { return a.Is4() != f.four })
	if slices.Equal(mine, f.mine) {
		return nil
	}
	elements := make([]nftables.SetElement, 0, len(mine))
	for _, a := range mine {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := h.replace(f.own, elements); err != nil {
		return fmt.Errorf("set own addresses in nftables: %w", err)
	}
	f.mine = mine
	return nil
}

// SetPathMTUs says how long the packets to some of the peers' allowed IPs may be, in bytes. There is nobody here who could tell a sender that what it
// has sent is too long; but TCP is told beforehand, as the peer that would get it announces how much it takes.
func (h *Hub) SetPathMTUs(mtus map[netip.Prefix]int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		return nil
	}
	var list []owned
	for _, p := range h.peers {
		for _, ip := range p.AllowedIPs {
			list = append(list, owned{ip, segmentOf(ip, mtus[ip])})
		}
	}
	for i, next := range split(regionsOf(list)) {
		if err := h.setClamp(h.families[i], next); err != nil {
			return fmt.Errorf("set the MTU of paths in nftables: %w", err)
		}
	}
	return nil
}

// segmentOf is the greatest TCP segment in packets of that length; none where it is zero.
func segmentOf(ip netip.Prefix, mtu int) uint32 {
	switch {
	case mtu == 0:
		return nobody
	case ip.Addr().Is4():
		return uint32(mtu - 40) //nolint:gosec // pathmtu finds none below 500 bytes
	}
	return uint32(max(mtu, datapath.MinMTU) - 60) //nolint:gosec // as above
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
	for _, l := range h.limited {
		h.limit(l, bits)
	}
	if err := h.conn.Flush(); err != nil {
		return fmt.Errorf("set limits in nftables: %w", err)
	}
	h.bits = bits
	return nil
}

// Drops is what was dropped since packets are passed on, by reason; nil while none are.
func (h *Hub) Drops() (map[string]uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		return nil, nil
	}
	out := map[string]uint64{}
	for _, name := range reasons {
		n, err := h.counted(name)
		if err != nil {
			return nil, err
		}
		out[name] = n
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
	return h.counted(long)
}

func (h *Hub) counted(name string) (uint64, error) {
	o, err := h.conn.GetObject(nft.Counter(h.table, name))
	if err != nil {
		return 0, fmt.Errorf("read counter %s: %w", name, err)
	}
	return nft.Packets(o), nil
}
