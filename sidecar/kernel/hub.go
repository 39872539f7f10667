//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/kernel/hub"
)

// SetInterface changes addresses, MTU and whether packets are passed on; see datapath.Datapath.
func (d *Device) SetInterface(i datapath.Interface) error {
	if err := i.Validate(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("set interface: %w", net.ErrClosed)
	}
	if err := d.hub.Switch(i.Hub); err != nil {
		return fmt.Errorf("set interface: %w", err)
	}
	own := make([]netip.Addr, 0, len(i.Addresses))
	for _, p := range i.Addresses {
		own = append(own, p.Addr())
	}
	if err := d.hub.Set(own, d.peers, func() error { return d.Link.SetInterface(i) }, func() error { return nil }); err != nil {
		return err
	}
	d.own = own
	if d.paths != nil {
		d.paths.setInterface(i)
	}
	return nil
}

// SetLimits holds the outside peers of a hub to a bandwidth; see datapath.Limiter. Handshakes are the kernel's own to limit: to fifty a second of
// each peer.
func (d *Device) SetLimits(l datapath.Limits) error {
	if err := d.hub.SetBandwidth(l.Bandwidth); err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	return nil
}

// longSent is how many packets have left that could be too long, ours and what was passed on.
func (d *Device) longSent() (uint64, error) {
	ours, err := d.LongSent()
	if err != nil {
		return 0, err
	}
	passed, err := d.hub.Long()
	return ours + passed, err
}

// followPaths has what leaves heed how long packets to some of the peers' allowed IPs may be, ours and what is passed on.
func (d *Device) followPaths(mtus map[netip.Prefix]int) error {
	return errors.Join(d.SetPathMTUs(mtus), d.hub.SetPathMTUs(mtus))
}

// probeHub says whether the interface of that name can be a hub.
func probeHub(nl *netlink.Handle, name string) error {
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	h, err := hub.New(name, link.Attrs().Index)
	if err != nil {
		return err
	}
	return errors.Join(h.Switch(true), h.Close())
}
