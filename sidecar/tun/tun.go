//go:build linux

// Package tun is the TUN datapath: the userspace engine of package wireguard on a TUN device, with the kernel's TCP/IP inside and the
// addresses, routes, policy and sockets of package oslink. It needs /dev/net/tun and CAP_NET_ADMIN over the network namespace.
//
//	socket -> route -> TUN device (super-packets, checksums left to us) -> pump: split -> engine: encrypt -> UDP (GSO)
//	UDP (GRO) -> engine: decrypt -> join -> TUN device (super-packets) -> guard, doors, input -> socket
//
// Ownership: a Device owns engine, Link and TUN device, which is gone from the system when it closes, or when the process dies. Close
// ends connections first, while their resets can still leave.
package tun

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	wgtun "github.com/tailscale/wireguard-go/tun"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/oslink"
	"github.com/tenantwire/tenantwire/sidecar/wireguard"
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

// Device is one WireGuard interface on a TUN device.
type Device struct {
	*oslink.Link
	*wireguard.Engine
	tun     wgtun.Device
	log     *slog.Logger
	mtu     atomic.Int64
	pumping sync.WaitGroup
	closing sync.Once
	closed  error
}

var (
	_ datapath.Datapath = (*Device)(nil)
	_ datapath.Gate     = (*Device)(nil)
	_ datapath.Limiter  = (*Device)(nil)
	_ datapath.Grouper  = (*Device)(nil)
	_ datapath.Tapper   = (*Device)(nil)
)

// Open brings an interface up without peers.
func Open(o Options) (*Device, error) {
	d, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open TUN datapath: %w", err)
	}
	return d, nil
}

func open(o Options) (*Device, error) {
	if err := o.Interface.Validate(); err != nil {
		return nil, err
	}
	t, err := create(o.Name, o.Interface.MTU)
	if err != nil {
		return nil, err
	}
	link, err := oslink.Open(o.Name, o.Logger)
	if err != nil {
		_ = t.Close()
		return nil, err
	}
	if o.Apart {
		if err := link.KeepApart(); err != nil {
			return nil, errors.Join(err, link.Close(), t.Close())
		}
	}
	d := &Device{Link: link, tun: t, log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler))}
	d.mtu.Store(int64(o.Interface.MTU))
	d.Engine, err = wireguard.Open(wireguard.Options{
		PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Mark: oslink.Mark, Logger: o.Logger,
		MTU: func() int { return int(d.mtu.Load()) }, Deliver: d.deliver, MaySend: o.Fence.Open,
		Follow:    func(next delta.Registry) error { return link.SetRoutes(next.Routes()) },
		FollowMTU: link.SetPathMTUs,
	})
	if err != nil {
		return nil, errors.Join(err, link.Close(), t.Close())
	}
	d.pumping.Go(d.pump)
	d.pumping.Go(d.ignoreEvents)
	if err := d.SetInterface(o.Interface); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// SetInterface changes addresses, MTU and whether packets are passed on; see datapath.Datapath.
func (d *Device) SetInterface(i datapath.Interface) error {
	if err := d.Link.SetInterface(i); err != nil {
		return err
	}
	d.mtu.Store(int64(i.MTU))
	d.SetHub(i)
	d.SetProbes(i)
	return nil
}

// create makes the TUN device, down and without addresses.
func create(name string, mtu int) (wgtun.Device, error) {
	t, err := wgtun.CreateTUN(name, mtu)
	switch {
	case err == nil:
		return t, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return nil, fmt.Errorf("/dev/net/tun is not there: a device plugin or hostPath must bring it: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("no right to create a TUN device (CAP_NET_ADMIN, and /dev/net/tun readable and writable): %w", err)
	case errors.Is(err, syscall.EBUSY):
		return nil, fmt.Errorf("interface %s exists already: %w", name, err)
	}
	return nil, fmt.Errorf("create TUN device %s: %w", name, err)
}

// Probe says whether a TUN device can be had here, by making one of that name, with these addresses, and removing it.
func Probe(name string, like datapath.Interface) error {
	t, err := create(name, like.MTU)
	if err != nil {
		return err
	}
	return errors.Join(oslink.Probe(name, like), t.Close())
}

// GroupBy sets which addresses are one peer's; see datapath.Grouper.
func (d *Device) GroupBy(peerOf func(netip.Addr) netip.Addr) {
	d.Link.GroupBy(peerOf)
	d.ShareBy(peerOf)
}

// Kind is TUN.
func (d *Device) Kind() datapath.Kind { return datapath.TUN }

// Capabilities are a kernel's, which completes handshakes by itself; but every packet passes through the engine.
func (d *Device) Capabilities() datapath.Capabilities {
	return datapath.Capabilities{Hub: true, Mappings: true, PathMTU: true, CountsMessages: true}
}

// Drops is what the engine dropped, and what the kernel refused of that which it let in, by reason.
func (d *Device) Drops() map[string]uint64 {
	out := d.Engine.Drops()
	if err := d.AddDrops(out); err != nil && !errors.Is(err, net.ErrClosed) {
		d.log.Warn("packets that the kernel drops cannot be counted", "error", err.Error())
	}
	return out
}

// Close resets every connection and removes the interface. Closing twice is no error.
func (d *Device) Close() error {
	d.closing.Do(func() {
		d.Forget()
		d.closed = errors.Join(d.Link.Close(), d.tun.Close(), d.Engine.Close())
		d.pumping.Wait()
	})
	return d.closed
}

// Format names the device under every verb: inside are keys in unexported fields, which fmt would print.
func (d *Device) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprint(f, "TUN ")
	d.Engine.Format(f, verb)
}
