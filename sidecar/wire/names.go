package wire

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
)

// Bounds of names.
const (
	MaxNames         = 64 // of one tunnel
	MaxNameAddresses = 64 // of one name
)

// Zone is what a gateway answers for to those who ask it inside the tunnel.
type Zone struct {
	Domain string `json:"domain"`          // for example main.tunnel
	Names  []Name `json:"names,omitempty"` // by name
}

// Name is that of a Service inside the tunnel.
type Name struct {
	Name      string       `json:"name"`                // without the domain
	Addresses []netip.Addr `json:"addresses,omitempty"` // sorted
}

var (
	dnsLabel  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsDomain = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

func (z *Zone) validate() error {
	if z == nil {
		return nil
	}
	if len(z.Domain) > 200 || !dnsDomain.MatchString(z.Domain) {
		return fmt.Errorf("zone.domain: %.80q is not a DNS name in lower case", z.Domain)
	}
	if len(z.Names) > MaxNames {
		return fmt.Errorf("zone.names: %d, want at most %d", len(z.Names), MaxNames)
	}
	for i, n := range z.Names {
		switch {
		case !dnsLabel.MatchString(n.Name):
			return fmt.Errorf("zone.names[%d].name: %.80q is not a DNS label in lower case", i, n.Name)
		case i > 0 && z.Names[i-1].Name >= n.Name:
			return fmt.Errorf("zone.names[%d].name: %s is out of order or a duplicate", i, n.Name)
		case len(n.Addresses) > MaxNameAddresses:
			return fmt.Errorf("zone.names[%d].addresses: %d, want at most %d", i, len(n.Addresses), MaxNameAddresses)
		case !slices.IsSortedFunc(n.Addresses, netip.Addr.Compare):
			return fmt.Errorf("zone.names[%d].addresses: out of order", i)
		}
		for _, a := range n.Addresses {
			if !usable(a) {
				return fmt.Errorf("zone.names[%d].addresses: %s is not a usable host address", i, a)
			}
		}
	}
	return nil
}

// diffZone is nil where nothing changed. A zone never goes: a gateway that is none any more ends.
func diffZone(from, to *Zone) *Zone {
	if reflect.DeepEqual(from, to) {
		return nil
	}
	return to
}
