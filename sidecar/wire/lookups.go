package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Bounds of look-ups.
const (
	MaxDNSZones   = 16 // of one tunnel
	MaxDNSServers = 3  // of one zone
)

// Lookups is where names are looked up that sites answer for, and nobody else is asked.
type Lookups struct {
	Zones []DNSZone `json:"zones,omitempty"` // by domain; of two that hold a name the longer one counts
	// Own are the tunnel's own ranges, sorted: whatever a server says, no name leads to a member, a gateway or a single outside
	// device.
	Own []netip.Prefix `json:"own,omitempty"`
}

// DNSZone is a domain and who is asked for the names in it.
type DNSZone struct {
	Domain  string           `json:"domain"`            // for example corp.internal
	Servers []netip.AddrPort `json:"servers,omitempty"` // inside the tunnel, in the order to ask; none: names are not found
	// Mappings are those of the servers' own site, sorted by what is real: they answer with the addresses that hosts have there.
	Mappings []Mapping `json:"mappings,omitempty"`
}

// Holds says whether a name, in lower case and without a dot at its end, is the zone's domain or in it.
func (z *DNSZone) Holds(name string) bool {
	rest, ok := strings.CutSuffix(name, z.Domain)
	return ok && z.Domain != "" && (rest == "" || strings.HasSuffix(rest, "."))
}

// Seen is what an address of an answer is inside the tunnel.
func (z *DNSZone) Seen(a netip.Addr) netip.Addr {
	for _, m := range z.Mappings {
		if m.Real.Contains(a) {
			return datapath.Mapping(m).SeenAs(a)
		}
	}
	return a
}

// Holds says whether a name is in one of the zones.
func (l *Lookups) Holds(name string) bool {
	return l != nil && slices.ContainsFunc(l.Zones, func(z DNSZone) bool { return z.Holds(name) })
}

func (l *Lookups) validate() error {
	if l == nil {
		return nil
	}
	if len(l.Zones) == 0 || len(l.Zones) > MaxDNSZones {
		return fmt.Errorf("lookups.zones: %d, want 1 to %d", len(l.Zones), MaxDNSZones)
	}
	for i, z := range l.Zones {
		if err := z.validate(); err != nil {
			return fmt.Errorf("lookups.zones[%d].%w", i, err)
		}
		if i > 0 && l.Zones[i-1].Domain >= z.Domain {
			return fmt.Errorf("lookups.zones[%d].domain: %s is out of order or a duplicate", i, z.Domain)
		}
	}
	for i, p := range l.Own {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("lookups.own[%d]: %s is not a range without host bits", i, p)
		}
		if i > 0 && l.Own[i-1].Compare(p) >= 0 {
			return fmt.Errorf("lookups.own[%d]: %s is out of order or a duplicate", i, p)
		}
	}
	return nil
}

// IsDomain says whether a name can be a zone's.
func IsDomain(s string) bool { return len(s) <= 253 && dnsDomain.MatchString(s) }

func (z *DNSZone) validate() error {
	if !IsDomain(z.Domain) {
		return fmt.Errorf("domain: %.80q is not a DNS name in lower case", z.Domain)
	}
	if len(z.Servers) > MaxDNSServers {
		return fmt.Errorf("servers: %d, want at most %d", len(z.Servers), MaxDNSServers)
	}
	for i, s := range z.Servers {
		if s.Port() == 0 || !usable(s.Addr()) {
			return fmt.Errorf("servers: %s is not a usable address and port", s)
		}
		if slices.Contains(z.Servers[:i], s) {
			return fmt.Errorf("servers: %s is listed twice", s)
		}
	}
	if !slices.IsSortedFunc(z.Mappings, compareMappings) {
		return errors.New("mappings: out of order")
	}
	if err := datapath.CheckMappings(mappings(z.Mappings), nil); err != nil {
		return fmt.Errorf("mappings: %w", err)
	}
	return nil
}

// diffLookups is nil where nothing changed, and points to an empty one where there are none any more.
func diffLookups(from, to *Lookups) *Lookups {
	switch {
	case reflect.DeepEqual(from, to):
		return nil
	case to == nil:
		return &Lookups{}
	}
	return to
}

// applyLookups makes of old ones what the delta says.
func (c *Config) applyLookups(old Config, d Delta) {
	switch {
	case d.Lookups == nil:
		c.Lookups = old.Lookups
	case len(d.Lookups.Zones)+len(d.Lookups.Own) > 0:
		c.Lookups = d.Lookups
	}
}

// validateLooked refuses what is looked up and has an address, or is in no zone.
func (c *Config) validateLooked() error {
	if err := c.Lookups.validate(); err != nil {
		return err
	}
	for i, s := range c.Services {
		if err := c.looked(s.Lookup, s.Name, len(s.Targets) > 0); err != nil {
			return fmt.Errorf("services[%d]: lookup: %w", i, err)
		}
	}
	for i, r := range c.Relays {
		if err := c.looked(r.Lookup, r.Name, r.Target.IsValid()); err != nil {
			return fmt.Errorf("relays[%d]: lookup: %w", i, err)
		}
	}
	return nil
}

func (c *Config) looked(up bool, name string, placed bool) error {
	switch {
	case !up:
		return nil
	case placed:
		return errors.New("stands beside a target, want one of them")
	case !c.Lookups.Holds(name):
		return fmt.Errorf("%.80q is in none of lookups.zones", name)
	}
	return nil
}
