package doctor

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// working is a way from client to web, behind which is one pod, on which everything works.
func working() *Path {
	near := &wire.Diagnosis{Time: testNow, PublicKey: publicKey(3), Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.3/32")}, MTU: 1420, Up: true, Applied: true}
	near.To = &wire.Destination{Asked: "web", Kind: wire.ToService, Carried: true, Port: wire.Port{Port: 80, Protocol: wire.TCP}, Targets: []wire.DiagnosedTarget{{
		Address: netip.MustParseAddr("10.77.0.2"), Port: 8080, PublicKey: publicKey(2), Endpoint: netip.MustParseAddrPort("10.0.0.2:51820"),
		Before: wire.PeerCounters{RxBytes: 1000, TxBytes: 1000}, After: wire.PeerCounters{LastHandshake: testNow, RxBytes: 3000, TxBytes: 4000},
		Echoes: []wire.Echo{{Bytes: 100, Answered: true}, {Bytes: 1400, Answered: true}, {Bytes: 1420, Answered: true}}, Dial: &wire.Dial{OK: true}}}}
	inbound := []wire.DiagnosedPort{{Port: wire.Port{Port: 8080, Protocol: wire.TCP}}}
	far := End{Pod: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.77.0.2")}, Endpoint: "10.0.0.2:51820",
		Before: &wire.Diagnosis{PublicKey: publicKey(2), Inbound: inbound}, After: &wire.Diagnosis{PublicKey: publicKey(2), Inbound: inbound}, Was: deviceOf(2, 3), Is: deviceOf(2, 3)}
	far.Is.Peers[0].RxBytes, far.Is.Peers[0].TxBytes = 4000, 3000
	return &Path{Namespace: "acme", From: "client", To: "web", Near: near, Far: []End{far}}
}

// mute has nothing come back.
func mute(p *Path) *wire.DiagnosedTarget {
	t := &p.Near.To.Targets[0]
	t.After.RxBytes, t.Echoes, t.Dial = t.Before.RxBytes, []wire.Echo{{Bytes: 100}}, &wire.Dial{Reason: "Timeout", Why: "timed out"}
	return t
}

func alone(p *Path) *wire.DiagnosedTarget {
	p.Far = nil
	t := mute(p)
	t.Outside = true
	return t
}

// far is what the far end received and sent meanwhile.
func far(p *Path, received, sent uint64) *End {
	e := &p.Far[0]
	e.Is.Peers[0].RxBytes, e.Is.Peers[0].TxBytes = e.Was.Peers[0].RxBytes+received, e.Was.Peers[0].TxBytes+sent
	return e
}

// narrow loses echoes of 1400 bytes and more, and has the sidecar know of a verified path MTU.
func narrow(p *Path, mtu int) *wire.DiagnosedTarget {
	t := &p.Near.To.Targets[0]
	t.Echoes = []wire.Echo{{Bytes: 100, Answered: true}, {Bytes: 1280, Answered: true}, {Bytes: 1400}, {Bytes: 1420}}
	t.PathMTU, t.MTUState = mtu, datapath.MTUVerified
	return t
}

func refusedThere(p *Path, why string) {
	p.Near.To.Targets[0].Dial = &wire.Dial{Reason: "Refused", Why: "connection refused"}
	p.Far[0].After = &wire.Diagnosis{PublicKey: publicKey(2), Inbound: p.Far[0].Before.Inbound, Refused: map[string]uint64{why: 1}}
}

var paths = []struct {
	name  string
	plant func(p *Path)
	want  []string
}{
	{"all is well", func(*Path) {}, nil},
	{"no sidecar answers", func(p *Path) { p.Near, p.Why = nil, "nobody answers" }, []string{"PathNotLooked"}},
	{"the data path is down", func(p *Path) { p.Near.Up, p.Near.Why = false, "no configuration yet" }, []string{"DataPathDown"}},
	{"no such name", func(p *Path) { p.Near.To = &wire.Destination{Kind: wire.ToNothing, Why: "no such name"} }, []string{"NameUnknown"}},
	{"not carried", func(p *Path) { p.Near.To.Carried, p.Near.To.Targets[0].Dial = false, nil }, []string{"NameNotCarried"}},
	{"no such port", func(p *Path) { p.Near.To.Targets, p.Near.To.Why = nil, "the name has no such port" }, []string{"PortNotCarried"}},
	{"nobody behind it", func(p *Path) { p.Near.To.Targets = nil }, []string{"NoTarget"}},
	{"the site does not know it", func(p *Path) { p.Near.To = &wire.Destination{Kind: wire.ToHost, Why: "no such host"} }, []string{"NameNotFound"}},
	{"nobody has the address", func(p *Path) { p.Near.To.Targets[0] = wire.DiagnosedTarget{Address: netip.MustParseAddr("10.9.9.9")} }, []string{"RouteMissing"}},
	{"no endpoint", func(p *Path) { alone(p).Endpoint = netip.AddrPort{} }, []string{"EndpointUnknown"}},
	{"another key", func(p *Path) { mute(p); p.Far[0].After = &wire.Diagnosis{PublicKey: publicKey(55)} }, []string{"KeyMismatch"}},
	{"unknown there", func(p *Path) { mute(p); p.Far[0].Is.Peers = nil }, []string{"PeerUnknownThere"}},
	{"nothing arrives", func(p *Path) { mute(p); far(p, 0, 0) }, []string{"UDPBlocked"}},
	{"nothing arrives, of a session", func(p *Path) { mute(p).After.LastHandshake = testNow.Add(-time.Minute); far(p, 0, 0) }, []string{"UDPBlocked"}},
	{"nothing arrives, and no echo can be asked for", func(p *Path) { mute(p).Echoes[0].Why = "permission denied"; far(p, 0, 0) }, []string{"UDPBlocked"}},
	{"answers do not", func(p *Path) { mute(p); far(p, 400, 400) }, []string{"AnswersBlocked"}},
	{"moved", func(p *Path) { mute(p); far(p, 0, 0).Endpoint = "10.0.0.77:51820" }, []string{"EndpointMoved"}},
	{"other addresses there", func(p *Path) { mute(p); far(p, 400, 0).Is.Peers[0].AllowedIPs = nil }, []string{"AllowedIPsMissing"}},
	{"dropped there", func(p *Path) { mute(p); far(p, 400, 0) }, []string{"DataLost"}},
	{"an outside peer is silent", func(p *Path) { alone(p).After.LastHandshake = time.Time{} }, []string{"UDPBlocked"}},
	{"an outside peer drops", func(p *Path) { alone(p).After.RxBytes += 92 }, []string{"DataLost"}},
	{"large packets get lost", func(p *Path) { p.Near.To.Targets[0].Echoes[2].Answered = false }, []string{"MTUBlackHole"}},
	{"large packets get lost, as the sidecar knows", func(p *Path) { narrow(p, 1328) }, []string{"PathNarrow"}},
	{"larger packets get lost than the sidecar thinks", func(p *Path) { narrow(p, 1420) }, []string{"MTUBlackHole"}},
	{"large packets get lost, and it is looked for what does not", func(p *Path) { narrow(p, 1328).MTUState = datapath.MTUSearching }, []string{"MTUBlackHole"}},
	{"echoes cannot be sent", func(p *Path) { p.Near.To.Targets[0].Echoes = []wire.Echo{{Bytes: 100, Why: "permission denied"}} }, nil},
	{"echoes are not answered", func(p *Path) { p.Near.To.Targets[0].Echoes = []wire.Echo{{Bytes: 100}} }, nil},
	{"not declared", func(p *Path) { refusedThere(p, "NotExposed"); p.Far[0].After.Inbound = nil }, []string{"PortNotDeclared"}},
	{"not let in", func(p *Path) { refusedThere(p, "NotAllowed") }, []string{"PolicyRefuses"}},
	{"not listening", func(p *Path) { refusedThere(p, "Refused") }, []string{"NotListening"}},
	{"an outside host does not listen", func(p *Path) { refusedThere(p, "Refused"); p.Far = nil }, []string{"NotListening"}},
	{"the port is silent", func(p *Path) { p.Near.To.Targets[0].Dial = &wire.Dial{Reason: "Timeout", Why: "timed out"} }, []string{"NoAnswer"}},
	{"a peer that is let in", func(p *Path) { fromLaptop(p, true) }, nil},
	{"a peer that is not", func(p *Path) { fromLaptop(p, false) }, []string{"PolicyRefuses"}},
	{"a peer to a port that is none", func(p *Path) { fromLaptop(p, true); p.Far[0].Port = 9 }, []string{"PortNotDeclared"}},
	{"a peer that is away", func(p *Path) { fromLaptop(p, true); p.Peer.Connected = false }, []string{"PeerNeverConnected"}},
	{"a peer to nobody", func(p *Path) { fromLaptop(p, true); p.Far = nil }, []string{"NoTarget"}},
	{"a peer to who says nothing", func(p *Path) { fromLaptop(p, true); p.Far[0].After, p.Far[0].Why = nil, "nobody answers" }, []string{"PathNotLooked"}},
}

func fromLaptop(p *Path, admits bool) {
	p.From, p.Near, p.Peer = "laptop", nil, &Source{Address: netip.MustParseAddr("10.77.0.253"), Accepted: true, Connected: true}
	p.Far[0].Port = 8080
	p.Far[0].After.Inbound[0].Admits = &admits
}

func TestPaths(t *testing.T) {
	named := map[string]bool{}
	for _, test := range paths {
		p := working()
		test.plant(p)
		r := Examine(healthy(t), p)
		if got := names(r); !slices.Equal(got, test.want) {
			t.Errorf("%s: found %v, want %v", test.name, got, test.want)
			continue
		}
		for _, f := range r.Findings {
			named[f.Check] = true
			if f.What == "" || f.Evidence == "" || f.Fix == "" || f.Severity == "" {
				t.Errorf("%s: says too little: %+v", test.name, f)
			}
		}
	}
	for _, c := range pathChecks {
		if !named[c.Name] {
			t.Errorf("no fault is planted for %s", c.Name)
		}
	}
}
