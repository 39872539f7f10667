package wire

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// lookups gives the configuration zones, and has some of what it carries looked up in them.
func (g generator) lookups(c *Config) {
	if g.IntN(2) == 0 {
		return
	}
	c.Lookups = &Lookups{}
	for i := range 1 + g.IntN(3) {
		z := DNSZone{Domain: fmt.Sprintf("site%d.corp", i)}
		if g.IntN(4) > 0 {
			z.Servers = []netip.AddrPort{netip.AddrPortFrom(g.address(), 53)}
		}
		c.Lookups.Zones = append(c.Lookups.Zones, z)
	}
	if g.IntN(2) == 0 {
		c.Lookups.Own = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd07::/64")}
	}
	for i := range c.Services {
		if s := &c.Services[i]; g.IntN(3) == 0 {
			s.Name += ".site0.corp"
			s.Targets, s.Lookup = nil, true
		}
	}
	for i := range c.Relays {
		if r := &c.Relays[i]; g.IntN(3) == 0 {
			r.Name += ".site0.corp"
			r.Target, r.Lookup = netip.AddrPort{}, true
		}
	}
	c.Sort()
}

func TestHolds(t *testing.T) {
	l := &Lookups{Zones: []DNSZone{{Domain: "corp.internal"}, {Domain: "x"}}}
	for name, want := range map[string]bool{"corp.internal": true, "db.corp.internal": true, "a.b.corp.internal": true, "x": true, "a.x": true,
		"acorp.internal": false, "internal": false, "": false, "corp.internal.": false, "ax": false} {
		if got := l.Holds(name); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
	var none *Lookups
	if none.Holds("a") || (&DNSZone{}).Holds("a") || (&DNSZone{}).Holds("") {
		t.Error("no zone holds a name")
	}
}

// Who does not know of look-ups sees a host that leads nowhere, which is refused.
func TestLookupsOfAnOlderSide(t *testing.T) {
	s := overWire(t, Service{ServiceID: ServiceID{"db.corp", 80, TCP}, Lookup: true})
	if len(s.Targets) > 0 {
		t.Errorf("targets %v", s.Targets)
	}
	c := Config{}
	if overWire(t, c); c.Lookups != nil || strings.Contains(encode(Event{Type: Snapshot, To: "x", Config: &c}), "lookup") {
		t.Error("a configuration without look-ups speaks of them")
	}
}

// Look-ups come, change and go by deltas.
func TestLookupsDelta(t *testing.T) {
	base := Config{Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32")}}}
	with := func(domains ...string) Config {
		c := base
		if len(domains) > 0 {
			c.Lookups = &Lookups{}
		}
		for _, d := range domains {
			c.Lookups.Zones = append(c.Lookups.Zones, DNSZone{Domain: d})
		}
		return c
	}
	steps := []Config{with(), with("a"), with("a", "b"), with("b"), with(), with()}
	for i := 1; i < len(steps); i++ {
		d := Diff(steps[i-1], steps[i])
		got, err := steps[i-1].Apply(overWire(t, d))
		if err != nil || !reflect.DeepEqual(got.Lookups, steps[i].Lookups) {
			t.Errorf("step %d: %+v, %v", i, got.Lookups, err)
		}
		if d.IsEmpty() != (i == 5) {
			t.Errorf("step %d: empty %t", i, d.IsEmpty())
		}
	}
}

func TestValidateLookups(t *testing.T) {
	server := netip.MustParseAddrPort("192.168.10.53:53")
	good := Config{
		Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32")}, Hub: true},
		Services:  []Service{{ServiceID: ServiceID{"db.corp", 80, TCP}, Lookup: true}},
		Relays:    []Relay{{Listen: 20000, ServiceID: ServiceID{"db.corp", 80, TCP}, Lookup: true}},
		Lookups: &Lookups{Zones: []DNSZone{{Domain: "corp", Servers: []netip.AddrPort{server}}, {Domain: "x.corp"}},
			Own: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}},
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	zones := func(change func(*DNSZone)) func(*Config) { return func(c *Config) { change(&c.Lookups.Zones[0]) } }
	for want, spoil := range map[string]func(*Config){
		"lookups.zones: 0":                  func(c *Config) { c.Lookups.Zones = nil },
		"lookups.zones: 17":                 func(c *Config) { c.Lookups.Zones = make([]DNSZone, 17) },
		`lookups.zones[0].domain: ""`:       zones(func(z *DNSZone) { z.Domain = "" }),
		`lookups.zones[0].domain: "Corp"`:   zones(func(z *DNSZone) { z.Domain = "Corp" }),
		`lookups.zones[0].domain: "corp."`:  zones(func(z *DNSZone) { z.Domain = "corp." }),
		"lookups.zones[0].domain: \"a\\n\"": zones(func(z *DNSZone) { z.Domain = "a\n" }),
		"lookups.zones[1].domain: corp":     func(c *Config) { c.Lookups.Zones[1].Domain = "corp" },
		"servers: 4":                        zones(func(z *DNSZone) { z.Servers = slices.Repeat(z.Servers, 4) }),
		"servers: 192.168.10.53:53 is list": zones(func(z *DNSZone) { z.Servers = slices.Repeat(z.Servers, 2) }),
		"servers: 127.0.0.53:53":            zones(func(z *DNSZone) { z.Servers[0] = netip.MustParseAddrPort("127.0.0.53:53") }),
		"servers: 192.168.10.53:0":          zones(func(z *DNSZone) { z.Servers[0] = netip.AddrPortFrom(server.Addr(), 0) }),
		"lookups.own[0]: 10.7.0.1/24":       func(c *Config) { c.Lookups.Own[0] = netip.MustParsePrefix("10.7.0.1/24") },
		"lookups.own[0]: invalid":           func(c *Config) { c.Lookups.Own[0] = netip.Prefix{} },
		"lookups.own[1]: 10.7.0.0/24 is ou": func(c *Config) { c.Lookups.Own = slices.Repeat(c.Lookups.Own, 2) },
		"services[0]: lookup: stands":       func(c *Config) { c.Services[0].Targets = []netip.AddrPort{server} },
		`services[0]: lookup: "db.other"`:   func(c *Config) { c.Services[0].Name = "db.other" },
		"relays[0]: lookup: stands":         func(c *Config) { c.Relays[0].Target = server },
		`relays[0]: lookup: "db.other"`:     func(c *Config) { c.Relays[0].Name = "db.other" },
		`services[0]: lookup: "db.corp" is`: func(c *Config) { c.Lookups = nil },
	} {
		c := overWire(t, good)
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
