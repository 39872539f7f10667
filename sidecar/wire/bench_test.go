package wire

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestValidateBench(t *testing.T) {
	token := strings.Repeat("0f", BenchTokenSize/2)
	at := netip.MustParseAddrPort("[fd07::1]:50000")
	run := func(change func(*BenchRun)) BenchRun {
		r := BenchRun{To: []netip.AddrPort{at}, Token: token, Streams: 4, Seconds: 2, MaxBytes: 1 << 30}
		change(&r)
		return r
	}
	type validator interface{ Validate() error }
	for _, good := range []validator{
		run(func(*BenchRun) {}), BenchDoor{[]netip.Addr{at.Addr()}, MaxBenchDoorSeconds}, BenchOpened{At: []netip.AddrPort{at}, Token: token},
		BenchSelf{[]netip.Addr{at.Addr()}, "TUN"}, BenchEvent{}, BenchEvent{Phase: &BenchPhase{Name: BenchUp, Streams: MaxBenchStreams}}, BenchAsk{},
	} {
		if err := good.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for want, bad := range map[string]validator{
		"from: 0 addresses, want 1 to 8":              BenchDoor{nil, 1},
		"from[0]: 127.0.0.1 is not a usable":          BenchDoor{[]netip.Addr{netip.MustParseAddr("127.0.0.1")}, 1},
		"seconds: 0 is not 1..120":                    BenchDoor{[]netip.Addr{at.Addr()}, 0},
		"seconds: 121":                                BenchDoor{[]netip.Addr{at.Addr()}, 121},
		"at: 9 addresses":                             BenchOpened{At: make([]netip.AddrPort, 9), Token: token},
		"to[0]: [fd07::1]:0 is not":                   run(func(r *BenchRun) { r.To[0] = netip.AddrPortFrom(at.Addr(), 0) }),
		"to[0]: 169.254.169.254:80":                   run(func(r *BenchRun) { r.To[0] = netip.MustParseAddrPort("169.254.169.254:80") }),
		"streams: 17 is not 1..16":                    run(func(r *BenchRun) { r.Streams = 17 }),
		"seconds: 11 is not 1..10":                    run(func(r *BenchRun) { r.Seconds = 11 }),
		"maxBytes: 0 is not 1..68719476736":           run(func(r *BenchRun) { r.MaxBytes = 0 }),
		"token: 63 bytes, want 64":                    run(func(r *BenchRun) { r.Token = token[1:] }),
		"token: it has something else":                run(func(r *BenchRun) { r.Token = token[2:] + "\r\n" }),
		"datapath: \"a b\" is not a name":             BenchSelf{[]netip.Addr{at.Addr()}, "a b"},
		"phase.name: \"sideways\" is not idle, up or": BenchEvent{Phase: &BenchPhase{Name: "sideways"}},
		"phase.streams: -1":                           BenchEvent{Phase: &BenchPhase{Name: BenchUp, Streams: -1}},
		"phase: a number is less than 0":              BenchEvent{Phase: &BenchPhase{Name: BenchUp, Bytes: -1}},
		"begins: 65 bytes":                            BenchEvent{Begins: strings.Repeat("x", 65)},
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// What a pod says of a measurement is what whoever can write into it decides.
func FuzzBenchEvent(f *testing.F) {
	f.Add([]byte(`{"phase":{"name":"up","streams":4,"bytes":1,"seconds":0.5,"bitsPerSecond":16,"roundTrips":3,"p50Micros":1,"p99Micros":2}}`))
	f.Add([]byte(`{"begins":"idle"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e BenchEvent
		if json.Unmarshal(b, &e) != nil || e.Validate() != nil || e.Phase == nil {
			return
		}
		if e.Phase.Streams < 0 || e.Phase.Streams > MaxBenchStreams || e.Phase.Bytes < 0 {
			t.Errorf("%+v", e.Phase)
		}
	})
}
