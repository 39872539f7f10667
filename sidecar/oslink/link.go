//go:build linux

// Package oslink is what the datapaths with a kernel's interface have in common, whoever encrypts: the interface's addresses, MTU
// and routes, what may come in through it, and the sockets that make it a datapath.Network. Everything is said to the kernel over
// netlink; no program is run.
//
//	out   DialTCP / DialUDP -> kernel socket, held to the interface -> route -> interface -> encryption
//	in    decryption -> interface -> guard (for us?) -> doors (an open port? to its listener) -> input (the rest is refused)
//
// What may come in is decided by one nftables table of our own (policy.go). A port that is open leads to a listener of ours on
// another port, held to the interface, and from there to the handler: an application that listens on the wildcard address is never
// reached directly, so that all datapaths have the same policy, limits and counters.
//
// Ownership: a Link owns its table, its routes, its listeners and every connection it made; Close ends them. The interface itself is
// its opener's, and whatever else is on the machine is nobody's business here.
//
// Everything is made in the network namespace of the thread that calls Open, but for sockets, which are made in that of the caller.
package oslink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/slots"
)

// Bounds of what peers can make a Link hold; those of package netstack.
const (
	maxTCPRequests        = 1024
	maxTCPRequestsPerPeer = 256
	maxUDPFlows           = 4096
	maxUDPFlowsPerPeer    = 1024
)

// Mark is on the outer packets of our datapaths, so that routes into the tunnel never catch the tunnel itself.
const Mark = 0x7477

// Link is one interface of the kernel's. All methods are safe for concurrent use.
type Link struct {
	name   string
	link   netlink.Link
	nl     *netlink.Handle
	diag   *netlink.Handle // lists connections; nil where the kernel does not
	log    *slog.Logger
	policy *policy
	singly bool            // see Singly; set before there are connections
	ctx    context.Context // ends with the Link
	cancel context.CancelFunc

	own       atomic.Pointer[[]netip.Addr]
	handleTCP atomic.Pointer[func(datapath.TCPRequest)]
	handleUDP atomic.Pointer[func(datapath.UDPRequest)]
	tcpSlots  *slots.Slots
	udpSlots  *slots.Slots
	overLimit atomic.Uint64 // connections and first datagrams of flows that had no slot, and more datagrams than wait for an answer

	mu     sync.Mutex // one change of configuration at a time
	iface  datapath.Interface
	routes *routes
	doors  doors
	closed bool

	connMu sync.Mutex
	conns  map[closer]struct{}
}

// closer is an open connection: Link.Close and a change of addresses end it.
type closer interface {
	local() netip.Addr
	end()
}

var (
	_ datapath.Network = (*Link)(nil)
	_ datapath.Gate    = (*Link)(nil)
)

// Index is the interface's.
func (l *Link) Index() int { return l.link.Attrs().Index }

// Singly says that little is merged of what comes out of the interface: whoever reads a connection at once finds a packet or two. It is
// called before the first connection.
func (l *Link) Singly() { l.singly = true }

// GroupBy sets which addresses are one peer's; see datapath.Grouper.
func (l *Link) GroupBy(peerOf func(netip.Addr) netip.Addr) {
	l.tcpSlots.GroupBy(peerOf)
	l.udpSlots.GroupBy(peerOf)
}

// Open takes the interface of that name, which is down, and shuts it: nothing may come in but answers.
func Open(name string, log *slog.Logger) (*Link, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	l := &Link{name: name, nl: nl, diag: openDiag(log), log: log, conns: make(map[closer]struct{}),
		tcpSlots: slots.New(maxTCPRequests, maxTCPRequestsPerPeer), udpSlots: slots.New(maxUDPFlows, maxUDPFlowsPerPeer)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.own.Store(new([]netip.Addr))
	if l.link, err = nl.LinkByName(name); err != nil {
		l.closeNetlink()
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	if l.policy, err = newPolicy(name); err != nil {
		l.closeNetlink()
		return nil, err
	}
	if l.routes, err = newRoutes(nl, name, l.link.Attrs().Index); err != nil {
		_ = l.policy.close()
		l.closeNetlink()
		return nil, err
	}
	return l, nil
}

// Probe says whether the interface of that name, which is down, can be shut, get these addresses and be brought up. What it changed
// goes with the interface.
func Probe(name string, like datapath.Interface) error {
	l, err := Open(name, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.SetInterface(like), l.Close())
}

// SetInterface changes addresses and MTU and brings the interface up. Connections on addresses that stay go on; those on addresses
// that go are reset.
func (l *Link) SetInterface(i datapath.Interface) error {
	if err := i.Validate(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("set interface: %w", net.ErrClosed)
	}
	if err := l.setInterface(i); err != nil {
		return fmt.Errorf("set interface %s: %w", l.name, err)
	}
	return nil
}

func (l *Link) setInterface(i datapath.Interface) error {
	next := addrs(i)
	if err := l.policy.setOwn(next); err != nil {
		return err
	}
	if err := l.nl.LinkSetMTU(l.link, i.MTU); err != nil {
		return fmt.Errorf("set MTU %d: %w", i.MTU, err)
	}
	// No address that nobody asked for; where IPv6 is switched off there is none to ask for.
	_ = l.nl.LinkSetIP6AddrGenMode(l.link, addrGenModeNone)
	prev := *l.own.Load()
	if err := l.routes.only.lead(next); err != nil {
		return err
	}
	for _, a := range next {
		if slices.Contains(prev, a) {
			continue
		}
		if err := l.nl.AddrReplace(l.link, hostAddr(a)); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := l.nl.LinkSetUp(l.link); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	if err := l.awaitLocal(next); err != nil {
		return err
	}
	l.own.Store(&next)
	// Routes before the old addresses go: the kernel drops the routes that prefer an address together with it.
	if err := l.routes.prefer(next); err != nil {
		return err
	}
	for _, a := range prev {
		if slices.Contains(next, a) {
			continue
		}
		l.endAll(func(c closer) bool { return c.local() == a })
		if err := l.nl.AddrDel(l.link, hostAddr(a)); err != nil {
			return fmt.Errorf("remove address %s: %w", a, err)
		}
	}
	if err := l.routes.only.release(next); err != nil {
		return err
	}
	l.iface = datapath.Interface{Addresses: slices.Clone(i.Addresses), MTU: i.MTU}
	return nil
}

// localWithin is how long an address may take until it is the machine's.
const localWithin = 5 * time.Second

// awaitLocal waits until the kernel takes packets to the IPv6 addresses for its own: it says so some time after the interface is up, by a
// worker of its own, and drops what comes before.
func (l *Link) awaitLocal(own []netip.Addr) error {
	deadline := time.Now().Add(localWithin)
	for _, a := range own {
		for a.Is6() {
			to, err := l.nl.RouteGet(a.AsSlice())
			if err == nil && len(to) > 0 && to[0].Type == unix.RTN_LOCAL {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("address %s is not the machine's after %s: %w", a, localWithin, errors.Join(err, syscall.EADDRNOTAVAIL))
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// SetRoutes makes the given inner addresses, and no others, reachable through the interface. Endpoints are the outer addresses of
// peers: what a route would swallow of them stays outside, see routes.
func (l *Link) SetRoutes(to []netip.Prefix, endpoints []netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("set routes: %w", net.ErrClosed)
	}
	return l.routes.set(to, endpoints, *l.own.Load())
}

// SetPathMTUs says how long the packets to some of the routes' addresses may be, in bytes, where that is less than the interface's MTU; it
// replaces what was said before.
func (l *Link) SetPathMTUs(mtus map[netip.Prefix]int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("set the MTU of routes: %w", net.ErrClosed)
	}
	if err := l.routes.setMTUs(mtus); err != nil {
		return fmt.Errorf("set the MTU of routes: %w", err)
	}
	return nil
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE: no link-local address.
const addrGenModeNone = 1

// goodbye is how long Close waits for the resets of open connections to leave, and then for the rest of what closed ones had to send.
const goodbye = 100 * time.Millisecond

// Close resets every connection, so that the other ends learn of it, and takes down all but the interface. Closing twice is no error.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.handleTCP.Store(nil)
	l.handleUDP.Store(nil)
	l.cancel()
	l.doors.close()
	if l.endAll(func(closer) bool { return true }) > 0 {
		time.Sleep(goodbye)
	}
	last, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	_ = l.Flush(last)
	_ = l.nl.LinkSetDown(l.link) // before anybody could come in: its opener takes it away
	err := errors.Join(l.routes.close(), l.policy.close())
	l.closeNetlink()
	if err != nil {
		return fmt.Errorf("close interface %s: %w", l.name, err)
	}
	return nil
}

func (l *Link) closeNetlink() {
	l.nl.Close()
	if l.diag != nil {
		l.diag.Close()
	}
}

// track makes the Link responsible for a connection; false when it is closed, and the connection ended.
func (l *Link) track(c closer) bool {
	l.connMu.Lock()
	if l.ctx.Err() == nil {
		l.conns[c] = struct{}{}
		l.connMu.Unlock()
		return true
	}
	l.connMu.Unlock()
	c.end()
	return false
}

func (l *Link) untrack(c closer) {
	l.connMu.Lock()
	defer l.connMu.Unlock()
	delete(l.conns, c)
}

func (l *Link) endAll(which func(closer) bool) int {
	var gone []closer
	l.connMu.Lock()
	for c := range l.conns {
		if which(c) {
			gone = append(gone, c)
			delete(l.conns, c)
		}
	}
	l.connMu.Unlock()
	for _, c := range gone {
		c.end()
	}
	return len(gone)
}

func addrs(i datapath.Interface) []netip.Addr {
	out := make([]netip.Addr, 0, len(i.Addresses))
	for _, p := range i.Addresses {
		out = append(out, p.Addr())
	}
	return out
}

// hostAddr is an address without a network around it: what is reachable is said by routes. There is nobody to ask whether the
// address is taken, and asking would take a second.
func hostAddr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
