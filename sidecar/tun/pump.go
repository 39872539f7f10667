//go:build linux

package tun

import (
	"errors"
	"net/netip"

	wgtun "github.com/tailscale/wireguard-go/tun"
)

// slabSize is what the TUN device needs to split any super-packet into.
const slabSize = 2 * (1<<16 - 1)

// pump sends what comes out of the TUN device until it is closed.
func (d *Device) pump() {
	slab, packets := make([]byte, slabSize), make([]wgtun.ReadPacket, d.tun.BatchSize())
	for {
		n, err := d.tun.Read(slab, packets)
		for rest := packets[:n]; len(rest) > 0; {
			rest = d.sendRun(slab, rest)
		}
		if err != nil && !errors.Is(err, wgtun.ErrTooManySegments) {
			return // closed, or gone
		}
	}
}

// sendRun sends the first packets that go to one destination and returns the others.
func (d *Device) sendRun(slab []byte, packets []wgtun.ReadPacket) []wgtun.ReadPacket {
	to := destination(slab, packets[0])
	n := 1
	for n < len(packets) && destination(slab, packets[n]) == to {
		n++
	}
	if to.IsValid() {
		b := d.Borrow()
		for _, p := range packets[:n] {
			b.Add(slab, p.Offset, p.Offset+p.Size)
		}
		d.Send(to, b)
	}
	return packets[n:]
}

// destination is invalid for what is not an IP packet.
func destination(slab []byte, p wgtun.ReadPacket) netip.Addr {
	b := slab[p.Offset : p.Offset+p.Size]
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[24:40]))
	}
	return netip.Addr{}
}

// deliver joins packets where it can and writes them to the TUN device. What it refuses is lost, as on any interface.
func (d *Device) deliver(packets [][]byte, offset int) { _, _ = d.tun.Write(packets, offset) }

// ignoreEvents takes the TUN device's events, which nobody needs: addresses and MTU are set by us.
func (d *Device) ignoreEvents() {
	for range d.tun.Events() {
	}
}
