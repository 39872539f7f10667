//go:build linux

// Package kernel is the Kernel datapath: a WireGuard interface of the kernel's own, made over netlink and configured by wgctrl, with the
// addresses, routes, policy and sockets of package oslink. It needs CAP_NET_ADMIN in the user namespace that owns the network namespace,
// and a kernel with WireGuard; asking for the interface loads the module. No packet passes through this process.
//
// Ownership: a Device owns the interface and removes it when it closes. Unlike a TUN device the interface outlives a process that dies:
// Open removes what is left of it, which it knows by an alias; it never touches anybody else's.
package kernel

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/kernel/hub"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/oslink"
)

// Options says how a Device is opened.
type Options struct {
	Name       string // of the interface
	PrivateKey key.Private
	ListenPort uint16 // outer UDP port; zero takes a free one
	Interface  datapath.Interface
	Apart      bool            // nobody but the interface's own addresses uses its routes
	Fence      *datapath.Fence // until when anything may leave; nil: always
	Logger     *slog.Logger    // nil discards
}

// Device is one WireGuard interface of the kernel's.
type Device struct {
	*oslink.Link
	name string
	self key.Public
	port uint16
	wg   *wgctrl.Client
	nl   *netlink.Handle
	log  *slog.Logger
	// paths is nil where the process may ask for no echoes (net.ipv4.ping_group_range), or count no packets.
	paths *paths
	fence *fence // nil: nobody but us speaks in our name
	hub   *hub.Hub

	mu     sync.Mutex // one configuration change at a time
	own    []netip.Addr
	peers  delta.Registry
	closed bool
}

var (
	_ datapath.Datapath = (*Device)(nil)
	_ datapath.Gate     = (*Device)(nil)
	_ datapath.Limiter  = (*Device)(nil)
	_ datapath.Grouper  = (*Device)(nil)
)

// Open brings an interface up without peers.
func Open(o Options) (*Device, error) {
	if o.PrivateKey.IsZero() {
		return nil, errors.New("open Kernel datapath: no private key")
	}
	if err := o.Interface.Validate(); err != nil {
		return nil, fmt.Errorf("open Kernel datapath: %w", err)
	}
	d := &Device{name: o.Name, self: o.PrivateKey.Public(), peers: make(delta.Registry), log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler))}
	if err := d.open(o); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("open Kernel datapath: %w", err)
	}
	return d, nil
}

func (d *Device) open(o Options) (err error) {
	if d.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if d.wg, err = wgctrl.New(); err != nil {
		return fmt.Errorf("open WireGuard control: %w", err)
	}
	if err := create(d.nl, d.name); err != nil {
		d.nl.Close()
		d.nl = nil // what is there is not ours to remove
		return err
	}
	if d.Link, err = oslink.Open(d.name, o.Logger); err != nil {
		return err
	}
	d.Singly()
	if d.hub, err = hub.New(d.name, d.Index()); err != nil {
		return err
	}
	if o.Apart {
		if err := d.KeepApart(); err != nil {
			return err
		}
	}
	if o.Fence != nil {
		if d.fence, err = newFence(d.name, o.Fence, d.log); err != nil {
			return err
		}
		d.fence.follow()
	}
	private, err := wgtypes.ParseKey(o.PrivateKey.Reveal())
	if err != nil {
		return fmt.Errorf("private key: %w", err)
	}
	port, mark := int(o.ListenPort), oslink.Mark
	if err := d.wg.ConfigureDevice(d.name, wgtypes.Config{PrivateKey: &private, ListenPort: &port, FirewallMark: &mark}); err != nil {
		return fmt.Errorf("configure %s: %w", d.name, err)
	}
	if err := d.SetInterface(o.Interface); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listen on UDP port %d: %w", o.ListenPort, err)
		}
		return err
	}
	state, err := d.wg.Device(d.name)
	if err != nil {
		return fmt.Errorf("read %s: %w", d.name, err)
	}
	d.port = uint16(state.ListenPort)
	if d.paths, err = newPaths(d); err != nil {
		d.log.Warn("the MTU of paths is not found out", "error", err.Error())
		return nil
	}
	d.paths.setInterface(o.Interface)
	return nil
}

// alias says that an interface is ours.
const alias = "tenantwire"

// create makes the interface, down and without a key.
func create(nl *netlink.Handle, name string) error {
	if old, err := nl.LinkByName(name); err == nil && old.Type() == "wireguard" && old.Attrs().Alias == alias {
		if err := nl.LinkDel(old); err != nil {
			return fmt.Errorf("remove the interface %s that an earlier process left: %w", name, err)
		}
	}
	link := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name}}
	err := nl.LinkAdd(link)
	switch {
	case err == nil:
		if err := nl.LinkSetAlias(link, alias); err != nil {
			return errors.Join(fmt.Errorf("name interface %s: %w", name, err), remove(nl, name))
		}
		return nil
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("this kernel has no WireGuard (module wireguard, Linux 5.6 or newer): %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no right to create an interface (CAP_NET_ADMIN): %w", err)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("interface %s exists already and is not ours: %w", name, err)
	}
	return fmt.Errorf("create WireGuard interface %s: %w", name, err)
}

// Probe says whether a WireGuard interface can be had here, by making one of that name, with these addresses, and removing it.
func Probe(name string, like datapath.Interface) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	if err := create(nl, name); err != nil {
		return err
	}
	err = oslink.Probe(name, like)
	if like.Hub && err == nil {
		err = probeHub(nl, name)
	}
	return errors.Join(err, remove(nl, name))
}

func remove(nl *netlink.Handle, name string) error {
	link, err := nl.LinkByName(name)
	if err == nil {
		err = nl.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// Kind is Kernel.
func (d *Device) Kind() datapath.Kind { return datapath.Kernel }

// Capabilities are a kernel's: it completes handshakes by itself.
func (d *Device) Capabilities() datapath.Capabilities {
	return datapath.Capabilities{Hub: true, PathMTU: d.paths != nil}
}

// ListenPort is the outer UDP port in use.
func (d *Device) ListenPort() uint16 { return d.port }

// UpdatePeers applies one delta, all of it or nothing. Peers that it does not change are not touched, even where it names them.
func (d *Device) UpdatePeers(upsert []datapath.Peer, remove []key.Public) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("update peers: %w", net.ErrClosed)
	}
	for _, p := range upsert {
		if len(p.Mappings) > 0 {
			return fmt.Errorf("update peers: peer %s: %w", p.PublicKey, datapath.ErrNoMappings)
		}
	}
	change, err := delta.Plan(d.self, d.peers, upsert, remove)
	if err != nil {
		return fmt.Errorf("update peers: %w", err)
	}
	if len(change.Changes) == 0 {
		return nil
	}
	next := maps.Clone(d.peers)
	next.Commit(change)
	err = d.hub.Set(d.own, next, func() error {
		if err := d.apply(change.Changes); err != nil {
			return err
		}
		return d.SetRoutes(next.Routes())
	}, func() error { // the kernel takes a long list in several messages; what it refuses half way is put back as it was
		return errors.Join(d.apply(d.peers.Restore(change.Changes)), d.SetRoutes(d.peers.Routes()))
	})
	if err != nil {
		return fmt.Errorf("update peers: %w", err)
	}
	d.peers = next
	if d.paths != nil {
		d.paths.setPeers(next)
	}
	return nil
}

func (d *Device) apply(changes []delta.Change) error {
	c := wgtypes.Config{Peers: make([]wgtypes.PeerConfig, 0, len(changes))}
	for _, p := range changes {
		peer, err := peerConfig(p)
		if err != nil {
			return err
		}
		c.Peers = append(c.Peers, peer)
	}
	if err := d.wg.ConfigureDevice(d.name, c); err != nil {
		return fmt.Errorf("configure %s: %w", d.name, err)
	}
	return nil
}

func peerConfig(p delta.Change) (wgtypes.PeerConfig, error) {
	c := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey), Remove: p.Remove, ReplaceAllowedIPs: p.ReplaceAllowedIPs}
	if p.Remove {
		return c, nil
	}
	if p.PresharedKey != nil {
		psk, err := wgtypes.ParseKey(p.PresharedKey.Reveal())
		if err != nil {
			return c, fmt.Errorf("preshared key of %s: %w", p.PublicKey, err)
		}
		c.PresharedKey = &psk // all zeros: none
	}
	if p.Endpoint.IsValid() {
		c.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
	}
	if p.Keepalive != nil {
		every := time.Duration(*p.Keepalive) * time.Second
		c.PersistentKeepaliveInterval = &every
	}
	for _, ip := range p.AllowedIPs {
		c.AllowedIPs = append(c.AllowedIPs, net.IPNet{IP: ip.Addr().AsSlice(), Mask: net.CIDRMask(ip.Bits(), ip.Addr().BitLen())})
	}
	return c, nil
}

// Peers lists the peers with their counters, sorted by key.
func (d *Device) Peers() ([]datapath.PeerStats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("list peers: %w", net.ErrClosed)
	}
	state, err := d.wg.Device(d.name)
	if err != nil {
		return nil, fmt.Errorf("list peers: %w", err)
	}
	out := make([]datapath.PeerStats, 0, len(state.Peers))
	for _, p := range state.Peers {
		stats := peerStats(p)
		if d.paths != nil {
			stats.PathMTU, stats.MTUState = d.paths.stats(stats.PublicKey)
		}
		out = append(out, stats)
	}
	slices.SortFunc(out, func(a, b datapath.PeerStats) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out, nil
}

func peerStats(p wgtypes.Peer) datapath.PeerStats {
	s := datapath.PeerStats{PublicKey: key.Public(p.PublicKey), RxBytes: uint64(p.ReceiveBytes), TxBytes: uint64(p.TransmitBytes)}
	if p.LastHandshakeTime.Unix() > 0 {
		s.LastHandshake = p.LastHandshakeTime
	}
	if p.Endpoint != nil {
		a := p.Endpoint.AddrPort()
		s.Endpoint = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	for _, n := range p.AllowedIPs {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			bits, _ := n.Mask.Size()
			s.AllowedIPs = append(s.AllowedIPs, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	return s
}

// Close resets every connection and removes the interface. Closing twice is no error.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.paths != nil {
		d.paths.close()
	}
	var errs []error
	if d.Link != nil {
		errs = append(errs, d.Link.Close())
	}
	if d.hub != nil {
		errs = append(errs, d.hub.Close())
	}
	gone := false
	if d.nl != nil {
		err := remove(d.nl, d.name)
		gone = err == nil
		errs = append(errs, err)
		d.nl.Close()
	}
	if d.fence != nil {
		errs = append(errs, d.fence.close(gone))
	}
	if d.wg != nil {
		errs = append(errs, d.wg.Close())
	}
	return errors.Join(errs...)
}

// Format names the device by its public key under every verb: inside are keys in unexported fields, which fmt would print.
func (d *Device) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "kernel device %s", d.self) }
