package agent

import (
	"net/netip"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// A gateway has the addresses of all outside peers beside its own: only its own says how long packets to it may be.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		peer wire.Peer
		want string // empty: none
	}{
		"member":             {wire.Peer{AllowedIPs: prefixes("10.7.0.2/32")}, ""},
		"gateway":            {wire.Peer{Gateway: true, AllowedIPs: prefixes("10.0.0.0/8", "10.7.0.3/32", "10.7.0.4/32"), Owners: []int{0, 1, 0}}, "10.7.0.4"},
		"gateway without":    {wire.Peer{Gateway: true, AllowedIPs: prefixes("10.7.0.3/32"), Owners: []int{1}}, ""},
		"gateway of nobody":  {wire.Peer{Gateway: true, AllowedIPs: prefixes("fd00::3/128"), Owners: []int{0}}, "fd00::3"},
		"owners are missing": {wire.Peer{Gateway: true, AllowedIPs: prefixes("10.7.0.3/32")}, ""},
	} {
		want := netip.Addr{}
		if c.want != "" {
			want = netip.MustParseAddr(c.want)
		}
		if got := answers(c.peer); got != want {
			t.Errorf("%s: %s, want %q", name, got, c.want)
		}
	}
	told := wire.Peer{PublicKey: key.NewPrivate().Public(), Gateway: true, AllowedIPs: prefixes("fd00::3/128"), Owners: []int{0}}
	d := (&member{}).translate(wire.Config{Interface: wire.Interface{Addresses: prefixes("10.7.0.1/32"), MTU: 1420}, Peers: []wire.Peer{told}})
	if got := d.peers[told.PublicKey].Answers; got != told.AllowedIPs[0].Addr() {
		t.Errorf("the datapath is told %s", got)
	}
}
