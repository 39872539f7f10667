package wire

import (
	"net/netip"
	"strings"
	"testing"
)

// TestValidatePublished: each way in which a published Service can be wrong is named.
func TestValidatePublished(t *testing.T) {
	addr, at := netip.MustParseAddr, netip.MustParseAddrPort
	good := Config{
		Interface: Interface{Hub: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32"), netip.MustParsePrefix("10.7.0.3/32"), netip.MustParsePrefix("fd07::3/128")}},
		Published: []Published{
			{ServiceID{"a", 80, TCP}, []netip.Addr{addr("10.7.0.2")}, nil, nil, false},
			{ServiceID{"b", 53, UDP}, []netip.Addr{addr("10.7.0.3"), addr("fd07::3")}, []netip.AddrPort{at("10.7.0.9:53")}, []netip.AddrPort{at("10.244.0.7:53"), at("10.244.0.8:53")}, false},
			{ServiceID{"b", 80, TCP}, []netip.Addr{addr("10.7.0.3")}, nil, nil, false},
		},
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	outside := func(s string) func(*Config) { return func(c *Config) { c.Published[1].Outside[0] = at(s) } }
	for want, spoil := range map[string]func(*Config){
		"only a gateway":                         func(c *Config) { c.Interface.Hub = false },
		"published[0]: name":                     func(c *Config) { c.Published[0].Name = "" },
		"published[0]: port: 0":                  func(c *Config) { c.Published[0].Port = 0 },
		`published[0]: protocol: ""`:             func(c *Config) { c.Published[0].Protocol = "" },
		"published[0]: addresses: 0":             func(c *Config) { c.Published[0].Addresses = nil },
		"published[0]: addresses: 3":             func(c *Config) { c.Published[0].Addresses = make([]netip.Addr, 3) },
		"published[1]: addresses: out of order":  func(c *Config) { c.Published[1].Addresses[1] = addr("10.7.0.3") },
		"10.7.0.4 is not one of interface":       func(c *Config) { c.Published[0].Addresses[0] = addr("10.7.0.4") },
		"127.0.0.1 is not one of interface":      func(c *Config) { c.Published[0].Addresses[0] = addr("127.0.0.1") },
		"10.7.0.2 belongs to a already":          func(c *Config) { c.Published[2].Addresses[0] = addr("10.7.0.2") },
		"published[1]: a:80/TCP is out of order": func(c *Config) { c.Published[1] = c.Published[0] },
		"inside: 127.0.0.1:53":                   func(c *Config) { c.Published[1].Inside[0] = at("127.0.0.1:53") },
		"inside: 10.7.0.9:0":                     func(c *Config) { c.Published[1].Inside[0] = at("10.7.0.9:0") },
		"outside: out of order":                  outside("10.244.0.8:53"),
		"outside: 127.0.0.1:53":                  outside("127.0.0.1:53"),
		"outside: 0.0.0.0:53":                    outside("0.0.0.0:53"),
		"outside: 10.0.0.1:0":                    outside("10.0.0.1:0"),
	} {
		c := overWire(t, good)
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	for _, bad := range []string{"169.254.169.254:80", "224.0.0.1:80", "[::]:80", "[::1]:80", "[fe80::1]:80", "[ff02::1]:80", "[::ffff:10.0.0.1]:80", "[fe80::1%eth0]:80"} {
		c := overWire(t, good)
		c.Published[1].Outside = []netip.AddrPort{at(bad)}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "published[1]: outside: "+bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
