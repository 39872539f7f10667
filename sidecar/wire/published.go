package wire

import (
	"errors"
	"fmt"
	"net/netip"
)

// MaxPublishedAddresses is how many addresses a published Service may have: one a family.
const MaxPublishedAddresses = 2

// Published is one port of a Service that a gateway answers for at addresses that are the Service's own.
type Published struct {
	ServiceID
	Addresses []netip.Addr `json:"addresses"` // sorted; of the gateway's interface, and no other Service's
	// Inside and Outside are where it leads, ready ones; none: new connections are refused. Both are sorted.
	Inside  []netip.AddrPort `json:"inside,omitempty"`  // members, reached through the tunnel
	Outside []netip.AddrPort `json:"outside,omitempty"` // pods without a sidecar, reached by the gateway pod's own network
	// Everyone: all outside peers reach it; otherwise those that have it in a Grant. Members always do.
	Everyone bool `json:"everyone,omitempty"`
}

func comparePublished(a, b Published) int { return compareIDs(a.ServiceID, b.ServiceID) }

func (d *Delta) diffPublished(from, to Config) {
	merge(from.Published, to.Published, comparePublished,
		func(p Published) { d.UpsertPublished = append(d.UpsertPublished, p) },
		func(p Published) { d.RemovePublished = append(d.RemovePublished, p.ServiceID) })
}

func (d *Delta) keepsPublished() bool {
	return len(d.UpsertPublished) == 0 && len(d.RemovePublished) == 0
}

// applyPublished makes of old ones what the delta says.
func (c *Config) applyPublished(old Config, d Delta) error {
	drop := make(map[ServiceID]bool, len(d.RemovePublished)+len(d.UpsertPublished))
	for _, id := range d.RemovePublished {
		drop[id] = true
	}
	for _, p := range d.UpsertPublished {
		if drop[p.ServiceID] {
			return fmt.Errorf("delta: published %s is both upserted and removed, or twice upserted", p.ServiceID)
		}
		drop[p.ServiceID] = true
	}
	c.Published = replace(old.Published, d.UpsertPublished, func(p Published) bool { return drop[p.ServiceID] })
	return nil
}

// validatePublished refuses ports at addresses that are not the gateway's to answer for, and two Services at one.
func (c *Config) validatePublished() error {
	if len(c.Published) == 0 {
		return nil
	}
	if !c.Interface.Hub {
		return errors.New("published: only a gateway, with interface.hub, can have any")
	}
	own := make(map[netip.Addr]string, len(c.Interface.Addresses)) // whose an address is, by name; empty: nobody's yet
	for _, a := range c.Interface.Addresses {
		own[a.Addr()] = ""
	}
	for i, p := range c.Published {
		if err := p.validate(); err != nil {
			return fmt.Errorf("published[%d]: %w", i, err)
		}
		if i > 0 && comparePublished(c.Published[i-1], p) >= 0 {
			return fmt.Errorf("published[%d]: %s is out of order or a duplicate", i, p.ServiceID)
		}
		for _, a := range p.Addresses {
			switch owner, ok := own[a]; {
			case !ok:
				return fmt.Errorf("published[%d].addresses: %s is not one of interface.addresses", i, a)
			case owner != "" && owner != p.Name:
				return fmt.Errorf("published[%d].addresses: %s belongs to %s already", i, a, owner)
			}
			own[a] = p.Name
		}
	}
	return nil
}

func (p Published) validate() error {
	if err := (Service{ServiceID: p.ServiceID}).validate(); err != nil {
		return err
	}
	if n := len(p.Addresses); n == 0 || n > MaxPublishedAddresses {
		return fmt.Errorf("addresses: %d, want 1 to %d", n, MaxPublishedAddresses)
	}
	if !ascending(p.Addresses, netip.Addr.Compare) {
		return errors.New("addresses: out of order or a duplicate")
	}
	for _, l := range []struct {
		field   string
		targets []netip.AddrPort
	}{{"inside", p.Inside}, {"outside", p.Outside}} {
		for _, t := range l.targets {
			if t.Port() == 0 || !usable(t.Addr()) {
				return fmt.Errorf("%s: %s is not a usable address and port", l.field, t)
			}
		}
		if !ascending(l.targets, netip.AddrPort.Compare) {
			return fmt.Errorf("%s: out of order or a duplicate", l.field)
		}
	}
	return nil
}

// ascending says whether a list is sorted and free of duplicates.
func ascending[T any](list []T, compare func(a, b T) int) bool {
	for i := range list[min(1, len(list)):] {
		if compare(list[i], list[i+1]) >= 0 {
			return false
		}
	}
	return true
}
