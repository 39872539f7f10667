package agent

import (
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// translateRelays opens the pod's address for pods without a sidecar. A member's pod never does, whatever it is told.
func (m *member) translateRelays(d *desired, c wire.Config) {
	if !m.Relays {
		return
	}
	for _, r := range c.Relays {
		d.egress = append(d.egress, relay.Egress{Name: r.String(), Listen: netip.AddrPortFrom(m.PodIP, r.Listen), Protocol: relay.Protocol(r.Protocol),
			Port: r.Port, Target: r.Target, Finder: m.finder(r.ServiceID, r.Lookup)})
	}
	d.clients = c.Clients
}
