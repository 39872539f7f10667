package wire

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Grant lets some outside peers reach some ports of a member, or Services that a gateway answers for, besides those that all of them
// reach. Older versions do not know it, and refuse these to every outside peer.
type Grant struct {
	// Sources are whose, by the inner source address: what outside peers have in AllowedIPs. An address counts for the narrowest range
	// that it is in.
	Sources []netip.Prefix `json:"sources"`
	// Ports and Services are all that is granted to them.
	Ports    []Port      `json:"ports,omitempty"`
	Services []ServiceID `json:"services,omitempty"` // of Published
}

func compareGrants(a, b Grant) int {
	return cmp.Or(slices.CompareFunc(a.Ports, b.Ports, comparePorts), slices.CompareFunc(a.Services, b.Services, compareIDs))
}

func sortGrants(grants []Grant) {
	for _, g := range grants {
		slices.SortFunc(g.Sources, netip.Prefix.Compare)
		slices.SortFunc(g.Ports, comparePorts)
		slices.SortFunc(g.Services, compareIDs)
	}
	slices.SortFunc(grants, compareGrants)
}

func equalGrants(a, b []Grant) bool {
	return slices.EqualFunc(a, b, func(a, b Grant) bool { return compareGrants(a, b) == 0 && slices.Equal(a.Sources, b.Sources) })
}

// diffGrants names the sources alone whose ports differ: a grant can have thousands.
func (d *Delta) diffGrants(from, to []Grant) {
	if equalGrants(from, to) {
		return
	}
	was := make(map[netip.Prefix]Grant)
	for _, g := range from {
		for _, s := range g.Sources {
			was[s] = g
		}
	}
	for _, g := range to {
		var changed []netip.Prefix
		for _, s := range g.Sources {
			if old, ok := was[s]; !ok || compareGrants(old, g) != 0 {
				changed = append(changed, s)
			}
			delete(was, s)
		}
		if len(changed) > 0 {
			d.UpsertGrants = append(d.UpsertGrants, Grant{changed, g.Ports, g.Services})
		}
	}
	for s := range was {
		d.RemoveSources = append(d.RemoveSources, s)
	}
	slices.SortFunc(d.RemoveSources, netip.Prefix.Compare)
}

func (d *Delta) keepsGrants() bool { return len(d.UpsertGrants) == 0 && len(d.RemoveSources) == 0 }

// applyGrants makes of old ones what the delta says. Sources with the same ports come together in one grant.
func (c *Config) applyGrants(old []Grant, d Delta) error {
	if c.Grants = old; d.keepsGrants() {
		return nil
	}
	drop := make(map[netip.Prefix]bool, len(d.RemoveSources))
	for _, s := range d.RemoveSources {
		drop[s] = true
	}
	for _, g := range d.UpsertGrants {
		for _, s := range g.Sources {
			if drop[s] {
				return fmt.Errorf("delta: source %s of a grant is both upserted and removed, or twice upserted", s)
			}
			drop[s] = true
		}
	}
	var next []Grant
	for _, g := range old {
		if left := replace(g.Sources, nil, func(s netip.Prefix) bool { return drop[s] }); len(left) > 0 {
			next = append(next, Grant{left, g.Ports, g.Services})
		}
	}
	for _, g := range d.UpsertGrants {
		next = append(next, Grant{slices.Clone(g.Sources), slices.Clone(g.Ports), slices.Clone(g.Services)})
	}
	c.Grants = JoinGrants(next)
	return nil
}

// JoinGrants makes one of those with the same ports, and puts them in their canonical order. The lists of what it is given are sorted
// in place.
func JoinGrants(grants []Grant) []Grant {
	sortGrants(grants)
	var out []Grant
	for _, g := range grants {
		if n := len(out); n > 0 && compareGrants(out[n-1], g) == 0 {
			out[n-1].Sources = slices.Concat(out[n-1].Sources, g.Sources)
		} else {
			out = append(out, g)
		}
	}
	sortGrants(out)
	return out
}

func validateGrants(grants []Grant, hub bool) error {
	owner := make(map[netip.Prefix]int)
	for i, g := range grants {
		if err := g.validate(); err != nil {
			return fmt.Errorf("grants[%d].%w", i, err)
		}
		if len(g.Services) > 0 && !hub {
			return fmt.Errorf("grants[%d].services: only a gateway, with interface.hub, can have any", i)
		}
		if i > 0 && compareGrants(grants[i-1], g) >= 0 {
			return fmt.Errorf("grants[%d].ports: %v are out of order or a duplicate", i, g.Ports)
		}
		for _, s := range g.Sources {
			if j, taken := owner[s]; taken {
				return fmt.Errorf("grants[%d].sources: %s is in grants[%d] already", i, s, j)
			}
			owner[s] = i
		}
	}
	return nil
}

func (g Grant) validate() error {
	switch {
	case len(g.Sources) == 0:
		return errors.New("sources: empty, want at least one range")
	case len(g.Ports)+len(g.Services) == 0:
		return errors.New("ports: empty, want at least one port or a Service")
	}
	for i, id := range g.Services {
		if err := (Service{ServiceID: id}).validate(); err != nil {
			return fmt.Errorf("services[%d]: %w", i, err)
		}
		if i > 0 && compareIDs(g.Services[i-1], id) >= 0 {
			return fmt.Errorf("services[%d]: %s is out of order or a duplicate", i, id)
		}
	}
	for i, s := range g.Sources {
		switch {
		case !s.IsValid() || s != s.Masked() || s.Addr().Is4In6():
			return fmt.Errorf("sources: %s is not a range without host bits", s)
		case i > 0 && g.Sources[i-1].Compare(s) >= 0:
			return fmt.Errorf("sources: %s is out of order or a duplicate", s)
		}
	}
	return validatePorts("ports", g.Ports)
}
