package agent

import (
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// admission says who reaches the inbound ports, by inner source addresses, which the datapath has checked. Members reach all of them. An
// address that is nobody's reaches none.
type admission struct {
	sources ranges[side]
	granted map[inboundPort]bool // to all outside peers
	grants  ranges[granted]      // besides, to some of them
	// everyone is the Services of a gateway that all outside peers reach.
	everyone map[wire.ServiceID]bool
}

// granted is what a Grant lets its sources reach.
type granted struct {
	ports    []inboundPort
	services []wire.ServiceID
}

// side is where an address belongs.
type side bool

const (
	inside  side = false // a member, this one included
	outside side = true  // no member
)

// newAdmission reads what the coordinator says. One that is older says nothing in Grants, and means all outside peers by Granted.
func newAdmission(c wire.Config) *admission {
	a := &admission{granted: make(map[inboundPort]bool, len(c.Granted))}
	var sources []rangeOf[side]
	for _, own := range c.Interface.Addresses {
		sources = append(sources, rangeOf[side]{Prefix: own, value: inside})
	}
	for _, p := range c.Peers {
		for _, r := range p.Ranges() {
			sources = append(sources, rangeOf[side]{Prefix: r, value: side(p.Outside)})
		}
	}
	a.sources = newRanges(sources)
	for _, p := range c.Granted {
		a.granted[inboundPort{p.Port, relay.Protocol(p.Protocol)}] = true
	}
	a.everyone = make(map[wire.ServiceID]bool, len(c.Published))
	for _, p := range c.Published {
		a.everyone[p.ServiceID] = p.Everyone
	}
	var grants []rangeOf[granted]
	for _, g := range c.Grants {
		ports := make([]inboundPort, 0, len(g.Ports))
		for _, p := range g.Ports {
			ports = append(ports, inboundPort{p.Port, relay.Protocol(p.Protocol)})
		}
		for _, s := range g.Sources {
			grants = append(grants, rangeOf[granted]{Prefix: s, value: granted{ports, g.Services}})
		}
	}
	a.grants = newRanges(grants)
	return a
}

func (a *admission) admits(src netip.Addr, to inboundPort) bool {
	where, known := a.sources.find(src)
	switch {
	case !known:
		return false
	case where == inside || a.granted[to]:
		return true
	}
	has, _ := a.grants.find(src)
	return slices.Contains(has.ports, to)
}

// admitsService says the same of a Service at its own address.
func (a *admission) admitsService(src netip.Addr, to wire.ServiceID) bool {
	where, known := a.sources.find(src)
	switch {
	case !known:
		return false
	case where == inside || a.everyone[to]:
		return true
	}
	has, _ := a.grants.find(src)
	return slices.Contains(has.services, to)
}
