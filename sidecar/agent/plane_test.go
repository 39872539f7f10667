package agent

import (
	"net/netip"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Members reach what a pod accepts, outside peers only what is granted to them, and nobody anything before there is a configuration.
func TestAdmission(t *testing.T) {
	prefix := netip.MustParsePrefix
	d := (&member{}).translate(wire.Config{
		Peers: []wire.Peer{
			{PublicKey: key.Public{1}, AllowedIPs: []netip.Prefix{prefix("fd00::1/128")}},
			{PublicKey: key.Public{2}, AllowedIPs: []netip.Prefix{prefix("192.168.0.0/16")}, Outside: true},
		},
		Inbound: []wire.Port{{Port: 80, Protocol: wire.TCP}, {Port: 9090, Protocol: wire.TCP}},
		Granted: []wire.Port{{Port: 80, Protocol: wire.TCP}},
	})
	var none *desired
	for _, c := range []struct {
		name string
		d    *desired
		src  string
		port uint16
		want bool
	}{
		{"member, exposed", &d, "fd00::1", 80, true},
		{"member, declared", &d, "fd00::1", 9090, true},
		{"outside, exposed", &d, "192.168.3.4", 80, true},
		{"outside, declared", &d, "192.168.3.4", 9090, false},
		{"no configuration", none, "fd00::1", 80, false},
	} {
		if got := c.d.admit(netip.MustParseAddr(c.src), netip.Addr{}, c.port, "TCP"); got != c.want {
			t.Errorf("%s: admitted %t, want %t", c.name, got, c.want)
		}
	}
	if d.admit(netip.MustParseAddr("192.168.3.4"), netip.Addr{}, 80, "UDP") {
		t.Error("a TCP port was granted for UDP too")
	}
}
