package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// generator makes random configurations out of few names, so that two of them have much in common.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 7))} }

func (g generator) address() netip.Addr {
	if g.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, byte(g.IntN(4)), byte(g.IntN(4)), byte(1 + g.IntN(250))})
	}
	a := [16]byte{0xfd, 7}
	a[15] = byte(1 + g.IntN(250))
	return netip.AddrFrom16(a)
}

func (g generator) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(g.address(), uint16(1+g.IntN(65535)))
}

// some makes up to n things.
func some[T any](g generator, n int, f func() T) []T {
	var out []T
	for range g.IntN(n + 1) {
		out = append(out, f())
	}
	return out
}

func (g generator) protocol() Protocol { return []Protocol{TCP, UDP}[g.IntN(2)] }

func (g generator) config() Config {
	c := Config{Interface: Interface{MTU: []int{0, 1280, 1420}[g.IntN(3)]}}
	for len(c.Interface.Addresses) == 0 {
		c.Interface.Addresses = some(g, 2, func() netip.Prefix { a := g.address(); return netip.PrefixFrom(a, a.BitLen()) })
	}
	peers, ranges := map[key.Public]bool{}, map[netip.Prefix]bool{}
	for _, p := range some(g, 12, g.peer) {
		if peers[p.PublicKey] {
			continue
		}
		peers[p.PublicKey] = true
		for range g.IntN(4) {
			a := g.address()
			r := netip.PrefixFrom(a, a.BitLen()-g.IntN(9)).Masked()
			if !ranges[r] {
				p.AllowedIPs = append(p.AllowedIPs, r)
			}
			ranges[r] = true
		}
		c.Peers = append(c.Peers, p)
	}
	services, ports := map[ServiceID]bool{}, map[Port]bool{}
	for range g.IntN(8) {
		s := Service{ServiceID: ServiceID{fmt.Sprintf("svc-%d", g.IntN(4)), uint16(80 + g.IntN(2)), g.protocol()}, Targets: some(g, 3, g.addrPort)}
		if !services[s.ServiceID] {
			c.Services = append(c.Services, s)
		}
		services[s.ServiceID] = true
	}
	for range g.IntN(5) {
		p := Port{uint16(1 + g.IntN(6)), g.protocol()}
		if !ports[p] {
			c.Inbound = append(c.Inbound, p)
			if g.IntN(2) == 0 {
				c.Granted = append(c.Granted, p)
			}
		}
		ports[p] = true
	}
	c.Grants = g.grants()
	c.Zone = &Zone{Domain: "main.tunnel"}
	for i := range g.IntN(3) {
		c.Zone.Names = append(c.Zone.Names, Name{fmt.Sprintf("svc-%d", i), []netip.Addr{g.addrPort().Addr()}})
	}
	if g.IntN(3) == 0 {
		g.gateway(&c)
	}
	g.lookups(&c)
	g.limits(&c)
	g.debug(&c)
	c.Sort()
	return c
}

// gateway makes the configuration one of a gateway that relays.
func (g generator) gateway(c *Config) {
	c.Interface.Hub = true
	doors, clients := map[Port]bool{}, map[netip.Addr]bool{}
	for range g.IntN(6) {
		r := Relay{Listen: uint16(20000 + g.IntN(4)), ServiceID: ServiceID{fmt.Sprintf("host-%d", g.IntN(3)), uint16(80 + g.IntN(2)), g.protocol()}}
		if g.IntN(2) == 0 {
			r.Target = g.addrPort()
		}
		if !doors[r.Door()] {
			c.Relays = append(c.Relays, r)
		}
		doors[r.Door()] = true
	}
	for range g.IntN(6) {
		a := netip.AddrFrom4([4]byte{10, 244, 0, byte(g.IntN(6))})
		if !clients[a] {
			c.Clients = append(c.Clients, a)
		}
		clients[a] = true
	}
	for i := range c.Peers {
		for j := range g.IntN(3) {
			c.Peers[i].Mappings = append(c.Peers[i].Mappings, Mapping{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + j), byte(g.IntN(3)), 0}), 24),
				netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i*3 + j), 0}), 24)})
		}
	}
	g.publish(c)
}

// publish makes the gateway answer for Services at addresses of their own, which change now and then.
func (g generator) publish(c *Config) {
	seen, shift := map[ServiceID]bool{}, g.IntN(2)
	for i := range 3 {
		for j := range 2 {
			a := netip.AddrFrom4([4]byte{10, 99, byte(shift), byte(1 + 2*i + j)})
			c.Interface.Addresses = append(c.Interface.Addresses, netip.PrefixFrom(a, 32))
		}
	}
	sorted := func(most int) []netip.AddrPort {
		l := some(g, most, g.addrPort)
		slices.SortFunc(l, netip.AddrPort.Compare)
		return slices.Compact(l)
	}
	for range g.IntN(6) {
		i := g.IntN(3)
		p := Published{ServiceID: ServiceID{fmt.Sprintf("svc-%d", i), uint16(80 + g.IntN(2)), g.protocol()}, Inside: sorted(2), Outside: sorted(2)}
		for j := range 1 + g.IntN(2) {
			p.Addresses = append(p.Addresses, netip.AddrFrom4([4]byte{10, 99, byte(shift), byte(1 + 2*i + j)}))
		}
		if !seen[p.ServiceID] {
			c.Published = append(c.Published, p)
		}
		seen[p.ServiceID] = true
	}
}

func (g generator) peer() Peer {
	p := Peer{PublicKey: key.Public{byte(1 + g.IntN(16))}, KeepaliveSeconds: 25 * g.IntN(2)}
	switch g.IntN(4) {
	case 0, 1:
		p.Endpoint = g.addrPort()
	case 2:
		p.EndpointName = fmt.Sprintf("vpn%d.example.com:51820", g.IntN(3))
	}
	return p
}

// overWire is the value after JSON, as the other side sees it.
func overWire[T any](t *testing.T, v T) (out T) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDiffApply: whatever two configurations there are, the delta between them leads from one to the other, over JSON too, and
// changes nothing of the first.
func TestDiffApply(t *testing.T) {
	for seed := range uint64(2000) {
		g := newGenerator(seed)
		a, b := g.config(), g.config()
		if err := errors.Join(a.Validate(), b.Validate()); err != nil {
			t.Fatalf("seed %d: the generator made a bad configuration: %v", seed, err)
		}
		before := a.Revision()
		d := Diff(a, b)
		got, err := a.Apply(overWire(t, d))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !reflect.DeepEqual(overWire(t, got), overWire(t, b)) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, b)
		}
		if got.Revision() != b.Revision() {
			t.Fatalf("seed %d: equal configurations have different revisions", seed)
		}
		if a.Revision() != before {
			t.Fatalf("seed %d: Apply changed what it was given", seed)
		}
		if d.IsEmpty() != (a.Revision() == b.Revision()) {
			t.Fatalf("seed %d: IsEmpty is %v, revisions %s and %s", seed, d.IsEmpty(), a.Revision(), b.Revision())
		}
		if again := Diff(got, b); !again.IsEmpty() {
			t.Fatalf("seed %d: a difference is left: %+v", seed, again)
		}
	}
}

// TestRevision: the order in which things were found does not matter, everything else does.
func TestRevision(t *testing.T) {
	for seed := range uint64(300) {
		g := newGenerator(seed)
		c := g.config()
		shuffled := overWire(t, c)
		g.Shuffle(len(shuffled.Peers), func(i, j int) { shuffled.Peers[i], shuffled.Peers[j] = shuffled.Peers[j], shuffled.Peers[i] })
		g.Shuffle(len(shuffled.Inbound), func(i, j int) {
			shuffled.Inbound[i], shuffled.Inbound[j] = shuffled.Inbound[j], shuffled.Inbound[i]
		})
		shuffled.Sort()
		if c.Revision() != shuffled.Revision() || c.Revision() != overWire(t, c).Revision() {
			t.Fatalf("seed %d: the same configuration has two revisions", seed)
		}
		c.Interface.MTU++
		if c.Revision() == shuffled.Revision() {
			t.Fatalf("seed %d: two configurations have one revision", seed)
		}
	}
}

// chain is a coordinator's stream: a snapshot and deltas, with the configurations they lead to.
func chain(seed uint64, n int) (events []Event, configs []Config) {
	g := newGenerator(seed)
	for len(configs) < n {
		c := g.config()
		if len(configs) == 0 {
			events = append(events, Event{Type: Snapshot, To: c.Revision(), Config: &c})
		} else if last := configs[len(configs)-1]; c.Revision() != last.Revision() {
			d := Diff(last, c)
			events = append(events, Event{Type: DeltaType, From: last.Revision(), To: c.Revision(), Delta: &d})
		} else {
			continue
		}
		configs = append(configs, c)
	}
	return events, configs
}

func encode(events ...Event) string {
	var b strings.Builder
	for _, e := range events {
		_ = json.NewEncoder(&b).Encode(e) // ends each with a line break
	}
	return b.String()
}

// follow reads a stream to its first error, as a member does.
func follow(stream string) (c Config, revision string, err error) {
	for r := NewReader(strings.NewReader(stream)); ; {
		e, err := r.Next()
		if err == nil {
			c, revision, err = Advance(c, revision, e)
		}
		if err != nil {
			return c, revision, err
		}
	}
}

// TestFollow: whatever happens to a stream, the last good configuration stays, and the end of it is an error that makes a member
// come again.
func TestFollow(t *testing.T) {
	ev, cfg := chain(1, 5)
	line := func(i int) string { return encode(ev[i]) }
	garbledDelta := ev[2]
	garbledDelta.Delta = &Delta{UpsertPeers: []Peer{{PublicKey: key.Public{9}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}}}
	relayed, client := Relay{Listen: 20000, ServiceID: ServiceID{"db", 80, TCP}}, netip.MustParseAddr("10.244.0.1")
	relayTwice, clientTwice := ev[2], ev[2]
	relayTwice.Delta = &Delta{UpsertRelays: []Relay{relayed}, RemoveRelays: []Port{relayed.Door()}}
	clientTwice.Delta = &Delta{AddClients: []netip.Addr{client}, RemoveClients: []netip.Addr{client}}
	grantTwice, source := ev[2], []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	grantTwice.Delta = &Delta{UpsertGrants: []Grant{{Sources: source, Ports: []Port{{80, TCP}}}}, RemoveSources: source}
	published := Published{ServiceID: relayed.ServiceID, Addresses: []netip.Addr{client}}
	publishedTwice := ev[2]
	publishedTwice.Delta = &Delta{UpsertPublished: []Published{published}, RemovePublished: []ServiceID{published.ServiceID}}
	twice := ev[2]
	twice.Delta = &Delta{UpsertPeers: []Peer{{PublicKey: key.Public{9}}}, RemovePeers: []key.Public{{9}}}
	loop := cfg[2]
	loop.Services = []Service{{ServiceID: ServiceID{"evil", 80, TCP}, Targets: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")}}}
	good := encode(ev...)
	for _, c := range []struct {
		name, stream string
		last         int // index of the configuration that must be left; -1: none
		clean        bool
	}{
		{"whole", good, 4, true},
		{"nothing", "", -1, true},
		{"cut between lines", line(0) + line(1), 1, true},
		{"cut in a line", line(0) + line(1) + line(2)[:len(line(2))/2], 1, false},
		{"cut in the snapshot", line(0)[:len(line(0))-3], -1, false},
		{"delta twice", line(0) + line(1) + line(1) + line(2), 1, false},
		{"delta lost", line(0) + line(1) + line(3), 1, false},
		{"out of order", line(0) + line(2) + line(1), 0, false},
		{"delta first", line(1) + line(0), -1, false},
		{"snapshot again", line(0) + line(1) + line(0), 0, true},
		{"two lines as one", line(0) + strings.TrimSpace(line(1)) + line(2), 0, false},
		{"noise in a line", line(0) + strings.Replace(line(1), `"type":"Delta"`, `"type":"D\u0000lta"`, 1), 0, false},
		{"noise after a value", line(0) + strings.TrimSpace(line(1)) + " x\n" + line(2), 0, false},
		{"empty line", line(0) + "\n" + line(1), 0, false},
		{"not JSON", line(0) + "<html>502 Bad Gateway</html>\n", 0, false},
		{"JSON of another kind", line(0) + "[]\n", 0, false},
		{"null", line(0) + "null\n", 0, false},
		{"delta without delta", line(0) + `{"type":"Delta","from":"` + ev[0].To + `","to":"x"}` + "\n", 0, false},
		{"snapshot without config", line(0) + `{"type":"Snapshot","to":"x"}` + "\n", 0, false},
		{"snapshot of nothing", line(0) + `{"type":"Snapshot","to":"x","config":{}}` + "\n", 0, false},
		{"bad delta", line(0) + line(1) + encode(garbledDelta), 1, false},
		{"contradicting delta", line(0) + line(1) + encode(twice), 1, false},
		{"contradicting relays", line(0) + line(1) + encode(relayTwice), 1, false},
		{"contradicting clients", line(0) + line(1) + encode(clientTwice), 1, false},
		{"contradicting grants", line(0) + line(1) + encode(grantTwice), 1, false},
		{"contradicting Services", line(0) + line(1) + encode(publishedTwice), 1, false},
		{"target on loopback", line(0) + encode(Event{Type: Snapshot, To: "x", Config: &loop}), 0, false},
		{"heartbeats", line(0) + encode(Event{Type: Heartbeat, To: ev[0].To}) + line(1), 1, true},
		{"heartbeat of another revision", line(0) + encode(Event{Type: Heartbeat, To: ev[1].To}) + line(1), 0, false},
		{"unknown type", line(0) + `{"type":"Party","to":"x"}` + "\n", 0, false},
		{"unknown field", line(0) + strings.Replace(line(1), `{"type"`, `{"mood":"good","type"`, 1), 1, true},
		{"line too long", line(0) + strings.Repeat(" ", MaxEvent) + line(1), 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, revision, err := follow(c.stream)
			want, wantRevision := Config{}, ""
			if c.last >= 0 {
				want, wantRevision = cfg[c.last], cfg[c.last].Revision()
			}
			if revision != wantRevision || got.Revision() != want.Revision() {
				t.Errorf("ends at %q, want %q (%v)", revision, wantRevision, err)
			}
			if errors.Is(err, io.EOF) != c.clean {
				t.Errorf("ends with %v; cleanly: want %v", err, c.clean)
			}
		})
	}
}

func mapped(realRange, seen string) Mapping {
	return Mapping{netip.MustParsePrefix(realRange), netip.MustParsePrefix(seen)}
}

// TestValidate: each way in which a configuration can be wrong is named.
func TestValidate(t *testing.T) {
	good := Config{
		Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32")}},
		Peers: []Peer{{PublicKey: key.Public{1}, Endpoint: netip.MustParseAddrPort("192.0.2.1:1"), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16")},
			Mappings: []Mapping{mapped("10.100.0.0/16", "10.200.0.0/16")}}, {PublicKey: key.Public{2}}},
		Services: []Service{{ServiceID: ServiceID{"db", 80, TCP}}},
		Inbound:  []Port{{80, TCP}},
		Relays:   []Relay{{Listen: 20000, ServiceID: ServiceID{"db", 80, TCP}, Target: netip.MustParseAddrPort("192.0.2.1:80")}},
		Clients:  []netip.Addr{netip.MustParseAddr("10.244.0.1")},
	}
	good.Interface.Hub = true
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for want, spoil := range map[string]func(*Config){
		"interface.addresses: empty":    func(c *Config) { c.Interface.Addresses = nil },
		"10.7.0.2/24":                   func(c *Config) { c.Interface.Addresses = prefix("10.7.0.2/24") },
		"127.0.0.1/32":                  func(c *Config) { c.Interface.Addresses = prefix("127.0.0.1/32") },
		"169.254.169.254/32":            func(c *Config) { c.Interface.Addresses = prefix("169.254.169.254/32") },
		"interface.mtu: 1279":           func(c *Config) { c.Interface.MTU = 1279 },
		"interface.mtu: 65456":          func(c *Config) { c.Interface.MTU = 65456 },
		"peers[0].publicKey: missing":   func(c *Config) { c.Peers[0].PublicKey = key.Public{} },
		"peers[1].publicKey":            func(c *Config) { c.Peers[1].PublicKey = key.Public{1} },
		"192.0.2.1:0":                   func(c *Config) { c.Peers[0].Endpoint = netip.MustParseAddrPort("192.0.2.1:0") },
		"0.0.0.0:1":                     func(c *Config) { c.Peers[0].Endpoint = netip.MustParseAddrPort("0.0.0.0:1") },
		"224.0.0.1:1":                   func(c *Config) { c.Peers[0].Endpoint = netip.MustParseAddrPort("224.0.0.1:1") },
		"fe80::1%eth0":                  func(c *Config) { c.Peers[0].Endpoint = netip.MustParseAddrPort("[fe80::1%eth0]:1") },
		"keepaliveSeconds: 65536":       func(c *Config) { c.Peers[0].KeepaliveSeconds = 65536 },
		"keepaliveSeconds: -1":          func(c *Config) { c.Peers[0].KeepaliveSeconds = -1 },
		"10.8.0.1/16":                   func(c *Config) { c.Peers[0].AllowedIPs = prefix("10.8.0.1/16") },
		"10.8.0.0/16 belongs to":        func(c *Config) { c.Peers[1].AllowedIPs = prefix("10.8.0.0/16") },
		"services[0]: name":             func(c *Config) { c.Services[0].Name = "" },
		"253 characters":                func(c *Config) { c.Services[0].Name = strings.Repeat("x", 254) },
		"services[0]: port: 0":          func(c *Config) { c.Services[0].Port = 0 },
		`services[0]: protocol: "SCTP"`: func(c *Config) { c.Services[0].Protocol = "SCTP" },
		"services[1]":                   func(c *Config) { c.Services = append(c.Services, c.Services[0]) },
		"targets: 127.0.0.1:80":         func(c *Config) { c.Services[0].Targets = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")} },
		"inbound[0]: port: 0":           func(c *Config) { c.Inbound[0].Port = 0 },
		"granted[0]: port: 0":           func(c *Config) { c.Granted = []Port{{0, TCP}} },
		"zone.domain":                   func(c *Config) { c.Zone = &Zone{Domain: "Main.tunnel"} },
		"zone.names[0].name":            func(c *Config) { c.Zone = &Zone{Domain: "a", Names: []Name{{Name: "a.b"}}} },
		"zone.names[1].name":            func(c *Config) { c.Zone = &Zone{Domain: "a", Names: []Name{{Name: "a"}, {Name: "a"}}} },
		"zone.names: 65":                func(c *Config) { c.Zone = &Zone{Domain: "a", Names: make([]Name, 65)} },
		"zone.names[0].addresses: 65":   func(c *Config) { c.Zone = &Zone{Domain: "a", Names: []Name{{"a", make([]netip.Addr, 65)}}} },
		"addresses: out of order": func(c *Config) {
			c.Zone = &Zone{Domain: "a", Names: []Name{{"a", []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")}}}}
		},
		"addresses: 127.0.0.1": func(c *Config) {
			c.Zone = &Zone{Domain: "a", Names: []Name{{"a", []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}}
		},
		"inbound[1]: 80/TCP is out of o": func(c *Config) { c.Inbound = append(c.Inbound, c.Inbound[0]) },
		"only a gateway":                 func(c *Config) { c.Interface.Hub, c.Peers[0].Mappings = false, nil },
		"relays[0]: listen: 0":           func(c *Config) { c.Relays[0].Listen = 0 },
		"relays[0]: name":                func(c *Config) { c.Relays[0].Name = "" },
		"relays[0]: port: 0":             func(c *Config) { c.Relays[0].Port = 0 },
		`relays[0]: protocol: ""`:        func(c *Config) { c.Relays[0].Protocol = "" },
		"targets: 127.0.0.1:53":          func(c *Config) { c.Relays[0].Target = netip.MustParseAddrPort("127.0.0.1:53") },
		"targets: 192.0.2.1:0":           func(c *Config) { c.Relays[0].Target = netip.MustParseAddrPort("192.0.2.1:0") },
		"relays[1]: 20000/TCP is out of": func(c *Config) { c.Relays = append(c.Relays, c.Relays[0]) },
		"clients[0]: 0.0.0.0":            func(c *Config) { c.Clients[0] = netip.IPv4Unspecified() },
		"clients[0]: invalid":            func(c *Config) { c.Clients[0] = netip.Addr{} },
		"clients[0]: ::ffff:10.244.0.1":  func(c *Config) { c.Clients[0] = netip.MustParseAddr("::ffff:10.244.0.1") },
		"clients[0]: fe80::1%eth0":       func(c *Config) { c.Clients[0] = netip.MustParseAddr("fe80::1%eth0") },
		"clients[1]: 10.244.0.1 is out":  func(c *Config) { c.Clients = append(c.Clients, c.Clients[0]) },
		"peers[0].mappings: only a gate": func(c *Config) { c.Interface.Hub, c.Relays, c.Clients = false, nil, nil },
		"peers[0].mappings: out of orde": func(c *Config) {
			c.Peers[0].Mappings = []Mapping{mapped("10.1.0.0/16", "10.2.0.0/16"), mapped("10.0.0.0/16", "10.3.0.0/16")}
		},
		"peers[0].mappings: 10.0.0.1/16": func(c *Config) { c.Peers[0].Mappings[0] = mapped("10.0.0.1/16", "10.2.0.0/16") },
		"peers[0].mappings: 127.1.0.0/1": func(c *Config) { c.Peers[0].Mappings[0] = mapped("127.1.0.0/16", "10.2.0.0/16") },
		"10.1.0.0/16 and 10.2.0.0/17 di": func(c *Config) { c.Peers[0].Mappings[0] = mapped("10.1.0.0/16", "10.2.0.0/17") },
		"10.2.0.0/16 is mapped to itsel": func(c *Config) { c.Peers[0].Mappings[0] = mapped("10.2.0.0/16", "10.2.0.0/16") },
		"10.1.0.0/16 as 10.8.0.0/16 ove": func(c *Config) { c.Peers[0].Mappings[0] = mapped("10.1.0.0/16", "10.8.0.0/16") },
		"10.8.0.0/16 as 10.2.0.0/16 ove": func(c *Config) { c.Peers[0].Mappings[0] = mapped("10.8.0.0/16", "10.2.0.0/16") },
		"65 mappings":                    func(c *Config) { c.Peers[0].Mappings = make([]Mapping, 65) },
		"10.200.0.0/16 belongs to peer ": func(c *Config) { c.Peers[1].AllowedIPs = prefix("10.200.0.0/16") },
	} {
		c := overWire(t, good)
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// TestGone leaves the interface and nothing that could carry a byte.
func TestGone(t *testing.T) {
	ev, cfg := chain(2, 2)
	got, revision, err := follow(encode(append(ev, Event{Type: Gone, Reason: "tunnel deleted"})...))
	if !errors.Is(err, io.EOF) || revision != "" {
		t.Errorf("revision %q, %v", revision, err)
	}
	if !reflect.DeepEqual(got, Config{Interface: overWire(t, cfg[1].Interface)}) {
		t.Errorf("left: %+v", got)
	}
}

// TestMaxEvent: an event of exactly the bound is read, one more byte is not.
func TestMaxEvent(t *testing.T) {
	head, tail := `{"type":"Gone","reason":"`, `"}`
	fill := strings.Repeat("x", MaxEvent-len(head)-len(tail))
	r := NewReader(strings.NewReader(head + fill + tail + "\n" + `{"type":"Gone"}` + "\n"))
	for i := range 2 {
		if _, err := r.Next(); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	if _, err := NewReader(strings.NewReader(head + "xx" + fill + tail + "\n")).Next(); err == nil {
		t.Error("an event above the bound was read")
	}
	// What never ends must not be kept.
	if _, err := NewReader(io.LimitReader(endless{}, 1<<40)).Next(); err == nil {
		t.Error("a line without end was read")
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// TestMaxEventHolds: the bound leaves room for the peers that it promises.
func TestMaxEventHolds(t *testing.T) {
	c := Config{Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}}
	for i := range 20_000 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		c.Peers = append(c.Peers, Peer{PublicKey: key.Public{1, byte(i >> 8), byte(i)}, Endpoint: netip.AddrPortFrom(a, 51820),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(a, 32), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), 128)}})
	}
	got, _, err := follow(encode(Event{Type: Snapshot, To: c.Revision(), Config: &c}))
	if !errors.Is(err, io.EOF) || len(got.Peers) != len(c.Peers) {
		t.Errorf("%d of %d peers: %v", len(got.Peers), len(c.Peers), err)
	}
}

// FuzzFollow: no stream leads anywhere but to a configuration that is valid.
func FuzzFollow(f *testing.F) {
	for seed := range uint64(4) {
		ev, _ := chain(seed, 3)
		f.Add([]byte(encode(ev...)))
	}
	f.Add([]byte(`{"type":"Gone"}` + "\n" + `{"type":"Heartbeat","to":""}`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		var c Config
		var revision string
		for {
			e, err := r.Next()
			if err != nil {
				return
			}
			next, to, err := Advance(c, revision, e)
			if err != nil {
				if to != revision || !reflect.DeepEqual(next, c) {
					t.Fatalf("an error, %v, changed what was there", err)
				}
				return
			}
			if to != "" && next.Validate() != nil {
				t.Fatalf("led to a bad configuration: %v", next.Validate())
			}
			if to != "" && !bytes.Equal([]byte(overWire(t, next).Revision()), []byte(next.Revision())) {
				t.Fatal("a configuration that JSON changes")
			}
			c, revision = next, to
		}
	})
}

// FuzzApply: a delta between any two valid configurations leads exactly there.
func FuzzApply(f *testing.F) {
	ev, cfg := chain(3, 4)
	for i := 1; i < len(ev); i++ {
		from, _ := json.Marshal(cfg[i-1])
		to, _ := json.Marshal(cfg[i])
		f.Add(from, to)
	}
	f.Fuzz(func(t *testing.T, from, to []byte) {
		var a, b Config
		if json.Unmarshal(from, &a) != nil || json.Unmarshal(to, &b) != nil || a.Validate() != nil || b.Validate() != nil ||
			a.Zone != nil && b.Zone == nil { // a zone never goes
			return
		}
		got, err := a.Apply(overWire(t, Diff(a, b)))
		if err != nil {
			t.Fatal(err)
		}
		if got.Revision() != b.Revision() {
			t.Fatalf("got %+v, want %+v", got, b)
		}
	})
}
