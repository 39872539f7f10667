package datapath

import (
	"errors"
	"fmt"
	"net/netip"
)

// Mapping gives the hosts behind a peer other addresses inside the tunnel than they have: Seen in place of Real, with the same host
// bits. Packets are rewritten at the edge of that peer and nowhere else.
type Mapping struct {
	Real netip.Prefix // what the hosts have, and the peer routes
	Seen netip.Prefix // what everybody else uses
}

// MaxMappings is how many a peer may have.
const MaxMappings = 64

// SeenAs is what an address of Real is inside the tunnel.
func (m Mapping) SeenAs(a netip.Addr) netip.Addr {
	host, network := a.AsSlice(), m.Seen.Addr().AsSlice()
	for i := range host {
		mask := byte(0xff) << max(0, min(8, 8*(i+1)-m.Seen.Bits()))
		host[i] = network[i]&mask | host[i]&^mask
	}
	seen, _ := netip.AddrFromSlice(host)
	return seen
}

// Validate says what is wrong with a mapping by itself.
func (m Mapping) Validate() error {
	for _, p := range []netip.Prefix{m.Real, m.Seen} {
		switch {
		case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
			return fmt.Errorf("%s is not a range without host bits", p)
		case !ordinary(p):
			return fmt.Errorf("%s: %w", p, ErrNotUnicast)
		}
	}
	switch {
	case m.Real.Addr().Is4() != m.Seen.Addr().Is4() || m.Real.Bits() != m.Seen.Bits():
		return fmt.Errorf("%s and %s differ in family or length", m.Real, m.Seen)
	case m.Real == m.Seen:
		return fmt.Errorf("%s is mapped to itself", m.Real)
	}
	return nil
}

// CheckMappings says what is wrong with the mappings of a peer that may use the given inner addresses besides. What is seen is nobody
// else's, and neither range overlaps addresses that are not mapped: so each address means one thing in either direction.
func CheckMappings(mappings []Mapping, others []netip.Prefix) error {
	if len(mappings) > MaxMappings {
		return fmt.Errorf("%d mappings: want at most %d", len(mappings), MaxMappings)
	}
	for i, m := range mappings {
		if err := m.Validate(); err != nil {
			return err
		}
		for _, o := range others {
			if m.Real.Overlaps(o) || m.Seen.Overlaps(o) {
				return fmt.Errorf("%s as %s overlaps %s, which is not mapped", m.Real, m.Seen, o)
			}
		}
		for _, e := range mappings[:i] {
			if m.Real.Overlaps(e.Real) || m.Seen.Overlaps(e.Seen) {
				return fmt.Errorf("%s as %s overlaps %s as %s", m.Real, m.Seen, e.Real, e.Seen)
			}
		}
	}
	return nil
}

// ErrNoMappings is in every refusal of a datapath that cannot rewrite addresses.
var ErrNoMappings = errors.New("mappings: this datapath cannot rewrite addresses; take Netstack or TUN")
