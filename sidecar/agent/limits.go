package agent

import (
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// limit holds outside peers to what they may take: packets and handshakes at the device, where it can, the rest at the relay.
func (p *plane) limit(l wire.Limits) error {
	if d, ok := p.device.(datapath.Limiter); ok {
		if err := d.SetLimits(datapath.Limits{Bandwidth: l.Bandwidth, Handshakes: l.Handshakes}); err != nil {
			return err
		}
	}
	p.relay.SetPeerLimits(l.Connections, l.Flows)
	return nil
}

// peerOf is the address that stands for all of a peer's, for whoever counts what peers hold. Zero: the gateway's own, where it is many's.
func (p *plane) peerOf(a netip.Addr) netip.Addr {
	d := p.admission.Load()
	if d == nil {
		return a
	}
	return d.owners.peerOf(a)
}

// isOutside says whether an address is an outside peer's, or nobody's: what the tunnel limits. A file limits nothing.
func (p *plane) isOutside(a netip.Addr) bool {
	d := p.admission.Load()
	if d == nil || d.admission == nil {
		return true
	}
	where, known := d.admission.sources.find(a)
	return !known || where == outside
}

// translateLimits takes what one outside peer may have, and which addresses are one's.
func (m *member) translateLimits(d *desired, c wire.Config) {
	if c.Limits != nil {
		d.limits = *c.Limits
	}
	var groups [][]netip.Prefix
	var ofMany []netip.Prefix
	for _, p := range c.Peers {
		own := ownersOf(p)
		groups = append(groups, own...)
		if p.Gateway {
			ofMany = append(ofMany, own[0]...)
		}
	}
	d.owners = newOwners(groups, ofMany)
}
