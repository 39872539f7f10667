package agent

import (
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/dns"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// zonePort is where a gateway answers for its tunnel's names, inside the tunnel.
const zonePort = 53

// serveZone opens the name server to everybody in the tunnel, who can ask it for nothing but names of Services: a policy bounds what a
// peer reaches, and not what it may know of.
func (m *member) serveZone(d *desired, z *wire.Zone) {
	if z == nil || m.DNS == nil {
		return
	}
	d.zone = &dns.Zone{Domain: z.Domain, Hosts: make(map[string][]netip.Addr, len(z.Names))}
	for _, n := range z.Names {
		d.zone.Hosts[n.Name] = n.Addresses
	}
	for _, protocol := range []relay.Protocol{relay.TCP, relay.UDP} {
		d.inbound = append(d.inbound, relay.Inbound{Port: zonePort, Protocol: protocol, To: m.DNS.Addr()})
		d.admission.granted[inboundPort{zonePort, protocol}] = true
	}
}
