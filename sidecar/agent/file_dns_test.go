package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// named is goodFile with zones, and a forward to a name in one.
const named = goodFile + `dns:
- {domain: corp.internal, servers: [10.9.0.53, "fd07::1"]}
- {domain: lab.corp.internal, servers: [10.7.0.1]}
`

func TestParseStaticDNS(t *testing.T) {
	s, err := parse(strings.Replace(named, `targets: ["10.7.0.1:5432", "[fd07::1]:5432"]`, "host: db.corp.internal:5432", 1))
	if err != nil {
		t.Fatal(err)
	}
	l := s.desired.lookups
	if len(l.Zones) != 2 || !slices.Equal(l.Zones[0].Servers, []netip.AddrPort{netip.MustParseAddrPort("10.9.0.53:53"), netip.MustParseAddrPort("[fd07::1]:53")}) ||
		!l.IPv4 || !l.IPv6 || !slices.Contains(l.Within, netip.MustParsePrefix("10.8.0.0/16")) || !slices.Contains(l.Except, netip.MustParsePrefix("10.7.0.2/32")) {
		t.Errorf("%+v", l)
	}
	p := newPlane(s.private, 0, choice{}, newLabLog())
	s.bind(p)
	p.resolver.Set(l)
	d := s.desired
	if f, ok := d.forwards[0].Finder.(lookedUp); !ok || f.name != "db.corp.internal" || f.port != 5432 || d.forwards[1].Finder != nil {
		t.Errorf("forwards %+v", d.forwards)
	}
	if d.proxies.Find("x.corp.internal", 80) == nil || d.proxies.Find("example.com", 80) != nil {
		t.Error("the proxies do not find names of a zone, or others too")
	}
	if s, err = parse(goodFile); err != nil || len(s.desired.lookups.Zones)+len(s.desired.lookups.Within) > 0 {
		t.Errorf("without zones: %+v, %v", s.desired.lookups, err)
	}
}

func TestParseStaticDNSBad(t *testing.T) {
	for _, c := range []struct{ old, bad, want string }{
		{"domain: corp.internal", "domain: Corp", `dns[0].domain: "Corp"`},
		{"domain: corp.internal", "domain: ''", `dns[0].domain: ""`},
		{"domain: lab.corp.internal", "domain: corp.internal", "dns[1].domain"},
		{`[10.9.0.53, "fd07::1"]`, "[]", "dns[0].servers: 0"},
		{`[10.9.0.53, "fd07::1"]`, "[10.9.0.1, 10.9.0.2, 10.9.0.3, 10.9.0.4]", "dns[0].servers: 4"},
		{`[10.9.0.53, "fd07::1"]`, "[ns.corp.internal]", "dns[0].servers[0]"},
		{`[10.9.0.53, "fd07::1"]`, "['10.9.0.53:53']", "dns[0].servers[0]"},
		{`[10.9.0.53, "fd07::1"]`, "[127.0.0.53]", "dns[0].servers[0]"},
		{`[10.9.0.53, "fd07::1"]`, "[10.10.0.53]", "in no peer's allowedIPs"},
		{`[10.9.0.53, "fd07::1"]`, "[10.9.0.53, 10.9.0.53]", "dns[0].servers[1]"},
		{"targets: [10.9.0.53:53]", "host: db.other:53", "forwards[1].host: \"db.other:53\" is in no zone"},
		{"targets: [10.9.0.53:53]", "host: db.corp.internal", "forwards[1].host"},
		{"targets: [10.9.0.53:53]", "host: db.corp.internal:0", "forwards[1].host"},
		{"targets: [10.9.0.53:53]", "host: 10.9.0.53:53", "forwards[1].host"},
		{"targets: [10.9.0.53:53]", "targets: [10.9.0.53:53]\n    host: db.corp.internal:53", "forwards[1].host: stands beside targets"},
	} {
		if !strings.Contains(named, c.old) {
			t.Fatalf("%s is not in the file", c.old)
		}
		if _, err := parse(strings.Replace(named, c.old, c.bad, 1)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", c.bad, err, c.want)
		}
	}
}
