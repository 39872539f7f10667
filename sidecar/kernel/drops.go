//go:build linux

package kernel

import (
	"errors"
	"fmt"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Drops is what was dropped, by reason: by WireGuard, as far as it says, by the interface's table, by the hub and by the fence.
func (d *Device) Drops() map[string]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	out := map[string]uint64{}
	if err := errors.Join(d.addRefused(out), d.AddDrops(out), d.addPassed(out)); err != nil {
		d.log.Warn("some dropped packets cannot be counted", "error", err.Error())
	}
	return out
}

// addRefused adds what WireGuard has refused of what it could decrypt, by the statistics of its interface, which are as old as that. It counts
// a packet whose source is not the peer's as an error of the frame, and with these the few that are neither IPv4 nor IPv6; a packet that is shorter
// than it says as an error of the length (wg_packet_consume_data_done in drivers/net/wireguard/receive.c, since Linux 5.6). Of what it refuses before that,
// messages that are no WireGuard, of no session, forged or replayed, it keeps no count: Capabilities.CountsMessages.
func (d *Device) addRefused(to map[string]uint64) error {
	link, err := d.nl.LinkByName(d.name)
	if err != nil {
		return fmt.Errorf("read the statistics of %s: %w", d.name, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return fmt.Errorf("read the statistics of %s: the kernel tells none", d.name)
	}
	to[datapath.DropForeignSource] += s.RxFrameErrors
	to[datapath.DropMalformed] += s.RxLengthErrors
	return nil
}

// addPassed adds what was dropped that others were to have.
func (d *Device) addPassed(to map[string]uint64) error {
	passed, err := d.hub.Drops()
	for why, n := range passed {
		to[why] += n
	}
	if d.fence != nil {
		n, cannot := d.fence.dropped()
		to[held] += n
		err = errors.Join(err, cannot)
	}
	return err
}
