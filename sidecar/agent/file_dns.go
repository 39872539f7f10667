package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/resolve"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

type fileZone struct {
	Domain  scalar   `yaml:"domain"`
	Servers []scalar `yaml:"servers"`
}

// fileHost is the host of a forward that has no targets.
type fileHost struct {
	name string
	port uint16
}

// dns reads the zones that peers' servers answer for. Names in them lead to what peers own and nowhere else.
func (f *file) dns(s *static) error {
	if len(f.DNS) == 0 {
		return nil
	}
	d := &s.desired
	c := resolve.Config{Except: d.iface.Addresses}
	for _, a := range d.iface.Addresses {
		c.IPv4, c.IPv6 = c.IPv4 || a.Addr().Is4(), c.IPv6 || a.Addr().Is6()
	}
	for _, p := range d.peers {
		c.Within = append(c.Within, p.AllowedIPs...)
	}
	slices.SortFunc(c.Within, netip.Prefix.Compare)
	for i, z := range f.DNS {
		zone, err := z.parse(d)
		if err != nil {
			return fmt.Errorf("dns[%d].%w", i, err)
		}
		if slices.ContainsFunc(c.Zones, func(o wire.DNSZone) bool { return o.Domain == zone.Domain }) {
			return fmt.Errorf("dns[%d].domain: %s is that of an earlier zone, want each once", i, z.Domain)
		}
		c.Zones = append(c.Zones, zone)
	}
	d.lookups = c
	return nil
}

func (z *fileZone) parse(d *desired) (out wire.DNSZone, err error) {
	const port = 53
	if out.Domain = string(z.Domain); !wire.IsDomain(out.Domain) {
		return out, fmt.Errorf("domain: %s is not a DNS name in lower case, like corp.internal", z.Domain)
	}
	if len(z.Servers) == 0 || len(z.Servers) > wire.MaxDNSServers {
		return out, fmt.Errorf("servers: %d, want 1 to %d addresses, like 10.20.0.53", len(z.Servers), wire.MaxDNSServers)
	}
	for i, text := range z.Servers {
		addr, err := netip.ParseAddr(string(text))
		at := netip.AddrPortFrom(addr, port)
		switch {
		case err != nil || !datapath.Unicast(addr):
			return out, fmt.Errorf("servers[%d]: %s is not an IP address inside a tunnel, like 10.20.0.53", i, text)
		case !d.reaches(addr):
			return out, fmt.Errorf("servers[%d]: %s is in no peer's allowedIPs, so nothing would get there", i, text)
		case slices.Contains(out.Servers, at):
			return out, fmt.Errorf("servers[%d]: %s is listed twice, want it once", i, text)
		}
		out.Servers = append(out.Servers, at)
	}
	return out, nil
}

// parseHost reads HOST:PORT of a forward, where HOST is in a zone.
func (d *desired) parseHost(s scalar) (h fileHost, err error) {
	name, number, _ := strings.Cut(string(s), ":")
	if h.port, err = scalar(number).port(1); err != nil || !wire.IsDomain(name) {
		return h, fmt.Errorf("%s is not a DNS name in lower case and a port, like db.corp.internal:5432", s)
	}
	l := wire.Lookups{Zones: d.lookups.Zones}
	if h.name = name; !l.Holds(name) {
		return h, fmt.Errorf("%s is in no zone of dns, and nobody else is asked for it", s)
	}
	return h, nil
}

var errHostAndTargets = errors.New("host: stands beside targets, want one of them")

// bind has what is known by name alone looked up by a plane.
func (s *static) bind(p *plane) {
	for i, h := range s.hosts {
		s.desired.forwards[i].Finder = lookedUp{p.resolver, h.name, h.port}
	}
	s.desired.proxies.Find = func(name string, port uint16) relay.Finder { return p.findHost(name, port) }
}
