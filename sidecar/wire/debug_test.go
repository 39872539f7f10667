package wire

import (
	"net/netip"
	"strings"
	"testing"
)

// debug allows something now and then.
func (g generator) debug(c *Config) {
	if d := (Debug{Capture: g.IntN(2) == 0, Bench: g.IntN(2) == 0}); d != (Debug{}) {
		c.Debug = &d
	}
}

// What is allowed goes with a delta that says so, and not with one that says nothing.
func TestDebugGoes(t *testing.T) {
	plain := Config{Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::1/128")}}}
	allowed := plain
	allowed.Debug = &Debug{Capture: true}
	if got, err := allowed.Apply(overWire(t, Diff(allowed, plain))); err != nil || got.Debug.CaptureAllowed() || got.Debug != nil {
		t.Errorf("left: %+v, %v", got.Debug, err)
	}
	if got, err := allowed.Apply(Delta{}); err != nil || !got.Debug.CaptureAllowed() || got.Debug.BenchAllowed() {
		t.Errorf("gone with a delta that does not name it: %+v, %v", got.Debug, err)
	}
	if got, err := plain.Apply(overWire(t, Diff(plain, allowed))); err != nil || got.Revision() != allowed.Revision() {
		t.Errorf("not there: %+v, %v", got.Debug, err)
	}
	empty := plain
	empty.Debug = &Debug{}
	if err := empty.Validate(); err == nil || !strings.Contains(err.Error(), "debug: it allows nothing") {
		t.Errorf("what allows nothing: %v", err)
	}
}

func TestValidateCapture(t *testing.T) {
	for _, good := range []Capture{{}, {strings.Repeat("x", MaxFilter), MaxSnapLength, 1 << 30, MaxCaptureSeconds}, {SnapLength: MinSnapLength}} {
		if err := good.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for want, bad := range map[string]Capture{
		"filter: 1025 bytes":                 {Filter: strings.Repeat("x", MaxFilter+1)},
		"snapLength: 39 is not 0 or 40..655": {SnapLength: MinSnapLength - 1},
		"snapLength: 65536":                  {SnapLength: MaxSnapLength + 1},
		"count: -1":                          {Count: -1},
		"seconds: -1":                        {Seconds: -1},
		"seconds: 3601 is not 0..3600":       {Seconds: MaxCaptureSeconds + 1},
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
