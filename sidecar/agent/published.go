package agent

import (
	"net"
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// publishedPort is one port at an address that is an exposed Service's own.
type publishedPort struct {
	at netip.Addr
	inboundPort
}

// translatePublished answers for exposed Services. A member's pod never does, whatever it is told.
func (m *member) translatePublished(d *desired, c wire.Config) {
	d.publishedAt = map[netip.Addr]bool{}
	d.published = map[publishedPort]wire.ServiceID{}
	if !m.Relays {
		return
	}
	for _, p := range c.Published {
		d.services = append(d.services, relay.Published{Name: p.Name, Addresses: p.Addresses, Port: p.Port, Protocol: relay.Protocol(p.Protocol),
			Inside: p.Inside, Outside: p.Outside})
		for _, a := range p.Addresses {
			d.publishedAt[a] = true
			d.published[publishedPort{a, inboundPort{p.Port, relay.Protocol(p.Protocol)}}] = p.ServiceID
		}
	}
}

// ports are what the kernel has to let through to the relay. Where Services have addresses of their own, each port is open at the
// addresses where the relay answers for it, and elsewhere shut as if nobody listened.
func (d *desired) ports() (open datapath.Ports) {
	at := func(protocol relay.Protocol, port uint16, addresses []netip.Addr) {
		for _, a := range addresses {
			switch protocol {
			case relay.TCP:
				open.TCPAt = append(open.TCPAt, netip.AddrPortFrom(a, port))
			case relay.UDP:
				open.UDPAt = append(open.UDPAt, netip.AddrPortFrom(a, port))
			}
		}
	}
	var others []netip.Addr
	for _, a := range d.iface.Addresses {
		if !d.publishedAt[a.Addr()] {
			others = append(others, a.Addr())
		}
	}
	for _, in := range d.inbound {
		switch {
		case in.Port == 0: // the relay says what is wrong with it
		case len(d.publishedAt) > 0:
			at(in.Protocol, in.Port, others)
		case in.Protocol == relay.TCP:
			open.TCP = append(open.TCP, in.Port)
		case in.Protocol == relay.UDP:
			open.UDP = append(open.UDP, in.Port)
		}
	}
	for _, s := range d.services {
		at(s.Protocol, s.Port, s.Addresses)
	}
	return open
}

// admit says whether a peer's address may reach a port of one of ours: members reach all that is open, others what is granted to them; at
// a Service's own address what the Service has, and no other port.
func (d *desired) admit(src, at netip.Addr, port uint16, protocol relay.Protocol) bool {
	if d == nil {
		return false
	}
	p := inboundPort{port, protocol}
	if d.publishedAt[at] {
		id, ok := d.published[publishedPort{at, p}]
		return ok && d.admission.admitsService(src, id)
	}
	return d.admission == nil || d.admission.admits(src, p)
}

// ownAddresses are the pod's.
func (p *plane) ownAddresses() ([]netip.Addr, error) {
	own := []netip.Addr{p.podIP.Unmap()}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		if n, ok := n.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				own = append(own, a.Unmap())
			}
		}
	}
	return own, nil
}
