package wire

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// limits are often none, and some peers stand for others.
func (g generator) limits(c *Config) {
	if g.IntN(2) == 0 {
		c.Limits = &Limits{Bandwidth: MinBandwidth * int64(1+g.IntN(2)), Handshakes: MinHandshakes * g.IntN(2), Connections: g.IntN(2), Flows: g.IntN(2)}
	}
	for i := range c.Peers {
		c.Peers[i].Gateway = c.Peers[i].Outside && g.IntN(2) == 0
		for range c.Peers[i].AllowedIPs {
			if p := &c.Peers[i]; i%2 == 0 {
				p.Owners = append(p.Owners, g.IntN(len(p.AllowedIPs)))
			}
		}
	}
}

// TestLimitsGo: a delta says that there are no limits any more, which is not the same as saying nothing.
func TestLimitsGo(t *testing.T) {
	plain := Config{Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::1/128")}}}
	limited := plain
	limited.Limits = &Limits{Flows: 5}
	d := overWire(t, Diff(limited, plain))
	if got, err := limited.Apply(d); err != nil || got.Limits != nil {
		t.Errorf("left: %+v, %v", got.Limits, err)
	}
	if got, err := limited.Apply(Delta{}); err != nil || got.Limits == nil || *got.Limits != *limited.Limits {
		t.Errorf("limits went with a delta that does not name them: %+v, %v", got.Limits, err)
	}
	if got, err := limited.Apply(Delta{Limits: &Limits{Flows: MaxFlowsPerPeer + 1}}); err == nil {
		t.Errorf("applied: %+v", got.Limits)
	}
}

func TestValidateLimits(t *testing.T) {
	config := func(l Limits, owners ...int) Config {
		return Config{
			Interface: Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::1/128")}}, Limits: &l,
			Peers: []Peer{{PublicKey: key.Public{1}, Owners: owners, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.1.0.0/16")}}},
		}
	}
	for _, good := range []Config{
		config(Limits{}), config(Limits{MinBandwidth, MinHandshakes, 1, 1}), config(Limits{MaxBandwidth, MaxHandshakes, MaxConnectionsPerPeer, MaxFlowsPerPeer}),
		config(Limits{}, 0, 0), config(Limits{}, 1, 0),
	} {
		if err := good.Validate(); err != nil {
			t.Error(err)
		}
	}
	member := config(Limits{})
	member.Peers[0].Gateway = true
	for want, bad := range map[string]Config{
		"].gateway: AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= is a member, want outside": member,

		"limits.bandwidth: 63999 is not 0 or 64000..100000000000": config(Limits{Bandwidth: MinBandwidth - 1}),
		"limits.bandwidth: 100000000001":                          config(Limits{Bandwidth: MaxBandwidth + 1}),
		"limits.handshakes: 9 is not 0 or 10..3000":               config(Limits{Handshakes: 9}),
		"limits.handshakes: 3001":                                 config(Limits{Handshakes: 3001}),
		"limits.connections: -1 is not 0 or 1..5000":              config(Limits{Connections: -1}),
		"limits.connections: 5001":                                config(Limits{Connections: 5001}),
		"limits.flows: 513 is not 0 or 1..512":                    config(Limits{Flows: 513}),
		"peers[0].owners: 1 numbers for 2 allowedIPs":             config(Limits{}, 0),
		"peers[0].owners: 2 is not 0..1":                          config(Limits{}, 0, 2),
		"peers[0].owners: -1 is not 0..1":                         config(Limits{}, -1, 0),
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
