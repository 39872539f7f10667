package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ErrNotUnicast is in every error about an address that no end of a tunnel can have.
var ErrNotUnicast = errors.New("not a unicast address that a tunnel carries")

// The inner MTU's bounds: IPv6 needs 1280; the most that fits a WireGuard message in a UDP datagram over IPv6.
const (
	MinMTU = 1280
	MaxMTU = 65455
)

// Validate says what is wrong with an interface: its MTU, or an address that no tunnel interface can have.
func (i Interface) Validate() error {
	if i.MTU < MinMTU || i.MTU > MaxMTU {
		return fmt.Errorf("interface MTU %d: want %d to %d", i.MTU, MinMTU, MaxMTU)
	}
	seen := make(map[netip.Addr]bool, len(i.Addresses))
	for _, p := range i.Addresses {
		switch a := p.Addr(); {
		case !p.IsValid():
			return fmt.Errorf("interface address %q: not a prefix", p)
		case !Unicast(a):
			return fmt.Errorf("interface address %s: %w", p, ErrNotUnicast)
		case seen[a]:
			return fmt.Errorf("interface address %s: listed twice", a)
		default:
			seen[a] = true
		}
	}
	return nil
}

// Unicast says whether an address can be one end of traffic in a tunnel. Loopback, link-local (with it the cloud's metadata
// address), multicast, broadcast and unspecified addresses cannot, nor can an IPv4 address dressed as IPv6, which would
// otherwise be a second spelling of each of them.
func Unicast(a netip.Addr) bool {
	switch {
	case !a.IsValid(), a.Is4In6(), a.Zone() != "", a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast():
		return false
	case a.Is4():
		b := a.As4()
		return b[0] != 0 && b[0] != 127 && b[0] < 240 // "this network", loopback, reserved and broadcast
	default:
		b := a.As16()
		compat := [12]byte(b[:12]) == [12]byte{} // ::/96, the deprecated IPv4-compatible form
		return !compat
	}
}

// ordinary says whether every address of a range can be a host's.
func ordinary(p netip.Prefix) bool {
	for _, r := range special {
		if r.Overlaps(p) {
			return false
		}
	}
	return true
}

// Special are the ranges that Unicast refuses, as far as they are more than single addresses.
func Special() []netip.Prefix { return slices.Clone(special) }

var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0/96"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}
