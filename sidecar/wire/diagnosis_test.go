package wire

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

func TestDiagnosisValidate(t *testing.T) {
	good := func() *Diagnosis {
		return &Diagnosis{PublicKey: key.Public{1}, Datapath: "Netstack", Dropped: map[string]uint64{"NoRoute": 1}, To: &Destination{Kind: ToService,
			Targets: []DiagnosedTarget{{Address: netip.MustParseAddr("10.7.0.1"), Echoes: []Echo{{Bytes: 100}}, Dial: &Dial{OK: true}}}}}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", maxSaid+1)
	for field, spoil := range map[string]func(*Diagnosis){
		"publicKey":                     func(d *Diagnosis) { d.PublicKey = key.Public{} },
		"datapath":                      func(d *Diagnosis) { d.Datapath = "a\x1b[2Jb" },
		"why":                           func(d *Diagnosis) { d.Why = long },
		"dropped":                       func(d *Diagnosis) { d.Dropped = map[string]uint64{"\n": 1} },
		"refused":                       func(d *Diagnosis) { d.Refused = map[string]uint64{"": 1} },
		"to.kind":                       func(d *Diagnosis) { d.To.Kind = "Elsewhere" },
		"to.why":                        func(d *Diagnosis) { d.To.Why = long },
		"to.targets:":                   func(d *Diagnosis) { d.To.Targets = make([]DiagnosedTarget, MaxDiagnosedTargets+1) },
		"to.targets[0].address":         func(d *Diagnosis) { d.To.Targets[0].Address = netip.Addr{} },
		"to.targets[0].endpointName":    func(d *Diagnosis) { d.To.Targets[0].EndpointName = long },
		"to.targets[0].dial":            func(d *Diagnosis) { d.To.Targets[0].Dial.Why = long },
		"to.targets[0].echoes[0].bytes": func(d *Diagnosis) { d.To.Targets[0].Echoes[0].Bytes = MaxMTU + 1 },
	} {
		d := good()
		spoil(d)
		if err := d.Validate(); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
