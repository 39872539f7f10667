package wire

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// grants are those of few sources, which often move from one to another, and of few ports.
func (g generator) grants() []Grant {
	taken := map[netip.Prefix]bool{}
	var out []Grant
	for _, ports := range [][]Port{{{80, TCP}}, {{80, UDP}}, {{80, TCP}, {443, TCP}}, {{443, TCP}, {80, TCP}, {53, UDP}}} {
		grant := Grant{Ports: ports}
		for range g.IntN(4) {
			s := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(g.IntN(8)), 0}), 24+8*g.IntN(2))
			if !taken[s] {
				grant.Sources = append(grant.Sources, s)
			}
			taken[s] = true
		}
		if len(grant.Sources) > 0 {
			out = append(out, grant)
		}
	}
	return out
}

// TestGrantDeltaIsSmall: one source that comes, moves or goes is all that is sent, however many others there are.
func TestGrantDeltaIsSmall(t *testing.T) {
	source := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 32)
	}
	web, db := []Port{{80, TCP}}, []Port{{5432, TCP}}
	config := func(webs, dbs []netip.Prefix) Config {
		c := Config{Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32")}}, Grants: []Grant{{Sources: webs, Ports: web}, {Sources: dbs, Ports: db}}}
		c.Sort()
		return c
	}
	var many []netip.Prefix
	for i := range 2000 {
		many = append(many, source(i))
	}
	one, moved := []netip.Prefix{source(3000)}, source(7)
	without := append(append([]netip.Prefix{}, many[:7]...), many[8:]...)
	from := config(many, one)
	for name, c := range map[string]struct {
		to   Config
		want Delta
	}{
		"comes": {config(append([]netip.Prefix{source(4000)}, many...), one), Delta{UpsertGrants: []Grant{{Sources: []netip.Prefix{source(4000)}, Ports: web}}}},
		"moves": {config(without, append([]netip.Prefix{moved}, one...)), Delta{UpsertGrants: []Grant{{Sources: []netip.Prefix{moved}, Ports: db}}}},
		"goes":  {config(without, one), Delta{RemoveSources: []netip.Prefix{moved}}},
		"stays": {config(many, one), Delta{}},
	} {
		d := Diff(from, c.to)
		if !reflect.DeepEqual(d, c.want) {
			t.Errorf("%s: %+v, want %+v", name, d, c.want)
		}
		if got, err := from.Apply(d); err != nil || got.Revision() != c.to.Revision() {
			t.Errorf("%s: led elsewhere: %v", name, err)
		}
	}
}

// TestGrantsAreUnknownToOlderVersions: what only some peers may reach is not in what an older version takes for granted to all of them.
func TestGrantsAreUnknownToOlderVersions(t *testing.T) {
	c := Config{Granted: []Port{{443, TCP}}, Grants: []Grant{{Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Ports: []Port{{80, TCP}}}}}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var older struct {
		Granted []Port `json:"granted"`
	}
	if err := json.Unmarshal(b, &older); err != nil || !reflect.DeepEqual(older.Granted, c.Granted) {
		t.Errorf("%+v, %v", older, err)
	}
}

// TestValidateGrants: each way in which grants can be wrong is named.
func TestValidateGrants(t *testing.T) {
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, s := range all {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	web, db := []Port{{80, TCP}}, []Port{{5432, TCP}}
	good := []Grant{{Sources: prefixes("10.9.0.0/24", "10.9.0.1/32", "fd00::1/128"), Ports: web}, {Sources: prefixes("0.0.0.0/0"), Ports: db}}
	if err := validateGrants(good, false); err != nil {
		t.Fatal(err)
	}
	for want, grants := range map[string][]Grant{
		"grants[0].sources: empty":                                {{Sources: nil, Ports: web}},
		"grants[0].ports: empty":                                  {{Sources: prefixes("10.9.0.0/24"), Ports: nil}},
		"grants[0].sources: 10.9.0.1/24":                          {{Sources: prefixes("10.9.0.1/24"), Ports: web}},
		"grants[0].sources: ::ffff:10.9.0.1/128":                  {{Sources: prefixes("::ffff:10.9.0.1/128"), Ports: web}},
		"grants[0].sources: invalid":                              {{Sources: []netip.Prefix{{}}, Ports: web}},
		"grants[0].sources: 10.9.0.0/24 is out of order":          {{Sources: prefixes("10.9.0.0/24", "10.9.0.0/24"), Ports: web}},
		"grants[0].sources: 10.8.0.0/24 is out of order":          {{Sources: prefixes("10.9.0.0/24", "10.8.0.0/24"), Ports: web}},
		"grants[0].ports[0]: port: 0":                             {{Sources: prefixes("10.9.0.0/24"), Ports: []Port{{0, TCP}}}},
		"grants[0].ports[0]: protocol: \"SCTP\"":                  {{Sources: prefixes("10.9.0.0/24"), Ports: []Port{{80, "SCTP"}}}},
		"grants[0].ports[1]: 80/TCP is out of order":              {{Sources: prefixes("10.9.0.0/24"), Ports: []Port{{80, TCP}, {80, TCP}}}},
		"grants[1].ports: [80/TCP] are out of order":              {{Sources: prefixes("10.9.0.0/24"), Ports: db}, {Sources: prefixes("10.8.0.0/24"), Ports: web}},
		"grants[1].ports: [80/TCP] are out of order or a duplica": {{Sources: prefixes("10.9.0.0/24"), Ports: web}, {Sources: prefixes("10.8.0.0/24"), Ports: web}},
		"grants[1].sources: 10.9.0.0/24 is in grants[0] already":  {{Sources: prefixes("10.9.0.0/24"), Ports: web}, {Sources: prefixes("10.9.0.0/24"), Ports: db}},
	} {
		c := Config{Interface: Interface{Addresses: prefixes("10.7.0.2/32")}, Grants: grants}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func BenchmarkGrants(b *testing.B) {
	c := Config{Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32")}}}
	const sources, grants = 2000, 16
	for i := range grants {
		g := Grant{Ports: []Port{{uint16(80 + i), TCP}}}
		for j := range sources / grants {
			g.Sources = append(g.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), byte(j)}), 32))
		}
		c.Grants = append(c.Grants, g)
	}
	if err := c.Validate(); err != nil {
		b.Fatal(err)
	}
	b.Run(fmt.Sprintf("same/sources=%d", sources), func(b *testing.B) {
		for b.Loop() {
			if d := Diff(c, c); !d.IsEmpty() {
				b.Fatal("differs")
			}
		}
	})
	d := Delta{RemoveSources: c.Grants[3].Sources[:1]}
	b.Run(fmt.Sprintf("apply/sources=%d", sources), func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Apply(d); err != nil {
				b.Fatal(err)
			}
		}
	})
}
