package wire

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Mapping is a range behind a peer that is seen under other addresses inside the tunnel; a gateway rewrites them.
type Mapping struct {
	Real netip.Prefix `json:"real"`
	Seen netip.Prefix `json:"seen"`
}

// Ranges are all inner addresses that a peer may use, as others see them, sorted. A mapped range is in Mappings alone: a gateway that
// does not know them yet has no way to it, and sends nothing to a host that has the address that was only meant to be seen.
func (p Peer) Ranges() []netip.Prefix {
	if len(p.Mappings) == 0 {
		return p.AllowedIPs
	}
	out := slices.Clone(p.AllowedIPs)
	for _, m := range p.Mappings {
		out = append(out, m.Seen)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// Mapped are the mappings as a datapath takes them; nil if there are none.
func (p Peer) Mapped() []datapath.Mapping { return mappings(p.Mappings) }

func mappings(list []Mapping) (out []datapath.Mapping) {
	for _, m := range list {
		out = append(out, datapath.Mapping(m))
	}
	return out
}

func compareMappings(a, b Mapping) int { return a.Real.Compare(b.Real) }

// validateMappings refuses mappings of anything but a gateway: what moves a member's packets may not know how to rewrite them.
func (c *Config) validateMappings() error {
	for i, p := range c.Peers {
		if len(p.Mappings) == 0 {
			continue
		}
		if !c.Interface.Hub {
			return fmt.Errorf("peers[%d].mappings: only a gateway, with interface.hub, can have any", i)
		}
		if !slices.IsSortedFunc(p.Mappings, compareMappings) {
			return fmt.Errorf("peers[%d].mappings: out of order", i)
		}
		if err := datapath.CheckMappings(p.Mapped(), p.AllowedIPs); err != nil {
			return fmt.Errorf("peers[%d].mappings: %w", i, err)
		}
	}
	return nil
}
