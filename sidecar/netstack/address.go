package netstack

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// The inner MTU's bounds: IPv6 needs 1280; the most that fits a WireGuard message in a UDP datagram over IPv6.
const (
	MinMTU = 1280
	MaxMTU = 65455
)

// ValidateInterface says what is wrong with an interface: its MTU, or an address that no tunnel interface can have.
func ValidateInterface(i datapath.Interface) error {
	if i.MTU < MinMTU || i.MTU > MaxMTU {
		return fmt.Errorf("interface MTU %d: want %d to %d", i.MTU, MinMTU, MaxMTU)
	}
	seen := make(map[netip.Addr]bool, len(i.Addresses))
	for _, p := range i.Addresses {
		switch a := p.Addr(); {
		case !p.IsValid():
			return fmt.Errorf("interface address %q: not a prefix", p)
		case !unicast(a):
			return fmt.Errorf("interface address %s: %w", p, errNotOurs)
		case seen[a]:
			return fmt.Errorf("interface address %s: listed twice", a)
		default:
			seen[a] = true
		}
	}
	return nil
}

// unicast says whether an address can be one end of traffic in a tunnel. Loopback, link-local (with it the cloud's metadata
// address), multicast, broadcast and unspecified addresses cannot, nor can an IPv4 address dressed as IPv6, which would
// otherwise be a second spelling of each of them.
func unicast(a netip.Addr) bool {
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

// addressSet is the interface's own addresses; it never changes once made.
type addressSet struct {
	one netip.Addr // the usual case is one address a family: spare the map
	two netip.Addr
	all map[netip.Addr]struct{}
}

func newAddressSet(ps []netip.Prefix) *addressSet {
	s := &addressSet{}
	switch len(ps) {
	case 2:
		s.two = ps[1].Addr()
		fallthrough
	case 1:
		s.one = ps[0].Addr()
	case 0:
	default:
		s.all = make(map[netip.Addr]struct{}, len(ps))
		for _, p := range ps {
			s.all[p.Addr()] = struct{}{}
		}
	}
	return s
}

func (s *addressSet) has(a netip.Addr) bool {
	if s.all != nil {
		_, ok := s.all[a]
		return ok
	}
	return a.IsValid() && (a == s.one || a == s.two)
}

func toTCPIP(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func fromAddress(a tcpip.Address) netip.Addr {
	if a.BitLen() == 32 {
		return netip.AddrFrom4(a.As4())
	}
	return netip.AddrFrom16(a.As16())
}

// full is an address as gVisor takes it, with the protocol number of its family.
func full(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	return tcpip.FullAddress{NIC: nicID, Addr: toTCPIP(a.Addr()), Port: a.Port()}, protocolOf(a.Addr())
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// protocolAddress registers a host address: with the real prefix length gVisor would also answer to the subnet's broadcast.
func protocolAddress(a netip.Addr) tcpip.ProtocolAddress {
	return tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: toTCPIP(a).WithPrefix()}
}

// abortOn resets the connections that have the given address of ours.
func (s *Stack) abortOn(a netip.Addr) {
	gone := toTCPIP(a)
	for _, e := range s.ip.RegisteredEndpoints() {
		// Only endpoints that know their tuple can be told apart.
		if ep, ok := e.(interface{ Info() tcpip.EndpointInfo }); ok {
			if info, ok := ep.Info().(*stack.TransportEndpointInfo); ok && info.ID.LocalAddress == gone {
				e.Abort()
			}
		}
	}
}
