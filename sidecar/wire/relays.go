package wire

import (
	"errors"
	"fmt"
	"net/netip"
)

func compareRelays(a, b Relay) int { return comparePorts(a.Door(), b.Door()) }

func (d *Delta) diffRelays(from, to Config) {
	merge(from.Relays, to.Relays, compareRelays,
		func(r Relay) { d.UpsertRelays = append(d.UpsertRelays, r) },
		func(r Relay) { d.RemoveRelays = append(d.RemoveRelays, r.Door()) })
	merge(from.Clients, to.Clients, netip.Addr.Compare,
		func(a netip.Addr) { d.AddClients = append(d.AddClients, a) },
		func(a netip.Addr) { d.RemoveClients = append(d.RemoveClients, a) })
}

func (d *Delta) keepsRelays() bool {
	return len(d.UpsertRelays) == 0 && len(d.RemoveRelays) == 0 && len(d.AddClients) == 0 && len(d.RemoveClients) == 0
}

// applyRelays makes of old ones what the delta says.
func (c *Config) applyRelays(old Config, d Delta) error {
	drop := make(map[Port]bool, len(d.RemoveRelays)+len(d.UpsertRelays))
	for _, p := range d.RemoveRelays {
		drop[p] = true
	}
	for _, r := range d.UpsertRelays {
		if drop[r.Door()] {
			return fmt.Errorf("delta: relay %s is both upserted and removed, or twice upserted", r.Door())
		}
		drop[r.Door()] = true
	}
	c.Relays = replace(old.Relays, d.UpsertRelays, func(r Relay) bool { return drop[r.Door()] })
	gone := make(map[netip.Addr]bool, len(d.RemoveClients)+len(d.AddClients))
	for _, a := range d.RemoveClients {
		gone[a] = true
	}
	for _, a := range d.AddClients {
		if gone[a] {
			return fmt.Errorf("delta: client %s is both added and removed, or twice added", a)
		}
		gone[a] = true
	}
	c.Clients = replace(old.Clients, d.AddClients, func(a netip.Addr) bool { return gone[a] })
	return nil
}

// validateRelays refuses relays of anything but a gateway: a member's pod must not become a way into the tunnel for others.
func (c *Config) validateRelays() error {
	if len(c.Relays)+len(c.Clients) > 0 && !c.Interface.Hub {
		return errors.New("relays, clients: only a gateway, with interface.hub, can have any")
	}
	for i, r := range c.Relays {
		if err := r.validate(); err != nil {
			return fmt.Errorf("relays[%d]: %w", i, err)
		}
		if i > 0 && compareRelays(c.Relays[i-1], r) >= 0 {
			return fmt.Errorf("relays[%d]: %s is out of order or a duplicate", i, r.Door())
		}
	}
	for i, a := range c.Clients {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("clients[%d]: %s is not the address of one host", i, a)
		}
		if i > 0 && c.Clients[i-1].Compare(a) >= 0 {
			return fmt.Errorf("clients[%d]: %s is out of order or a duplicate", i, a)
		}
	}
	return nil
}

func (r Relay) validate() error {
	if r.Listen == 0 {
		return errors.New("listen: 0 is not 1..65535")
	}
	service := Service{ServiceID: r.ServiceID}
	if r.Target != (netip.AddrPort{}) {
		service.Targets = []netip.AddrPort{r.Target}
	}
	return service.validate()
}
