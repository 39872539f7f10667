package netstack

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// ValidateInterface says what is wrong with an interface.
func ValidateInterface(i datapath.Interface) error { return i.Validate() }

func unicast(a netip.Addr) bool { return datapath.Unicast(a) }

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

// dialFrom makes the first address of either family the one that dials leave from, as with a socket of the kernel's. Left alone, the stack
// takes the address that has most in common with the destination, which is any of them. Binding each dial would do it too, but
// then a port is one for all destinations, and there are only so many.
func (s *Stack) dialFrom(own []netip.Prefix) error {
	first := map[bool]tcpip.Address{} // by whether it is IPv4
	ep, err := s.ip.GetNetworkEndpoint(nicID, ipv6.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("find the IPv6 endpoint: %w", fromTCPIP(err))
	}
	six, ok := ep.(interface {
		SetDeprecated(a tcpip.Address, deprecated bool) tcpip.Error
	})
	if !ok {
		return fmt.Errorf("the IPv6 endpoint %T has no addresses", ep)
	}
	for _, p := range own {
		a, v4 := toTCPIP(p.Addr()), p.Addr().Is4()
		if _, later := first[v4]; !later {
			first[v4] = a
		}
		if v4 {
			continue // the stack heeds a hint for IPv4 alone, and what is deprecated for IPv6 alone
		}
		if err := six.SetDeprecated(a, a != first[v4]); err != nil {
			return fmt.Errorf("dial from %s: %w", p.Addr(), fromTCPIP(err))
		}
	}
	s.ip.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID, SourceHint: first[true]},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
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
