package agent

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestPeerOf(t *testing.T) {
	d := (&member{}).translate(wire.Config{
		Interface: wire.Interface{Addresses: prefixes("10.7.0.1/32")},
		Peers: []wire.Peer{
			{PublicKey: key.Public{1}, AllowedIPs: prefixes("10.7.0.2/32", "fd07::2/128")},
			{PublicKey: key.Public{3}, Outside: true, // a site with nothing but mapped ranges
				Mappings: []wire.Mapping{{Real: prefixes("192.168.1.0/24")[0], Seen: prefixes("10.88.1.0/24")[0]}, {Real: prefixes("192.168.2.0/24")[0], Seen: prefixes("10.88.2.0/24")[0]}}},
			{PublicKey: key.Public{2}, Outside: true, Owners: []int{0, 1, 2, 1, 2, 0},
				AllowedIPs: prefixes("10.7.0.254/32", "10.66.0.0/16", "10.66.9.0/24", "fd66::/64", "fd99::1/128", "fd07::ff/128")},
		},
		Limits: &wire.Limits{Connections: 7},
	})
	for a, want := range map[string]string{
		"10.7.0.2": "10.7.0.2", "fd07::2": "10.7.0.2", // one member
		"10.66.1.2": "10.66.0.0", "10.66.77.2": "10.66.0.0", "fd66::1": "10.66.0.0", "fd66::ffff:1": "10.66.0.0", // one site
		"10.66.9.3": "10.66.9.0", "fd99::1": "10.66.9.0", // another, within its range
		"10.7.0.254": "10.7.0.254", "fd07::ff": "10.7.0.254", // the gateway itself
		"10.88.1.7": "10.88.1.0", "10.88.2.7": "10.88.1.0", "10.88.2.8": "10.88.1.0", // one site, as it is seen
		"192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1", // nobody's
	} {
		if got := d.owners.peerOf(netip.MustParseAddr(a)); got.String() != want {
			t.Errorf("%s is taken for %s, want %s", a, got, want)
		}
	}
	if d.limits != (wire.Limits{Connections: 7}) {
		t.Errorf("limits %+v", d.limits)
	}
}

// TestGatewayIsMany: what a gateway dials for many from addresses of its own is nobody's in particular; what is behind it is somebody's.
func TestGatewayIsMany(t *testing.T) {
	gateway := wire.Peer{PublicKey: key.Public{2}, Outside: true, Gateway: true, AllowedIPs: prefixes("10.66.0.0/16", "10.7.0.254/32", "fd07::ff/128"), Owners: []int{1, 0, 0}}
	alone := wire.Peer{PublicKey: key.Public{2}, Outside: true, Gateway: true, AllowedIPs: prefixes("10.7.0.254/32", "fd07::ff/128")}
	for _, c := range []struct {
		peer wire.Peer
		want map[string]string
	}{
		{gateway, map[string]string{"10.66.9.9": "10.66.0.0", "10.7.0.254": "invalid IP", "fd07::ff": "invalid IP", "10.7.0.2": "10.7.0.2"}},
		{alone, map[string]string{"10.66.9.9": "10.66.9.9", "10.7.0.254": "invalid IP", "fd07::ff": "invalid IP", "10.7.0.2": "10.7.0.2"}},
	} {
		d := (&member{}).translate(wire.Config{Interface: wire.Interface{Addresses: prefixes("10.7.0.1/32")},
			Peers: []wire.Peer{{PublicKey: key.Public{1}, AllowedIPs: prefixes("10.7.0.2/32")}, c.peer}})
		for a, want := range c.want {
			if got := d.owners.peerOf(netip.MustParseAddr(a)); got.String() != want {
				t.Errorf("%s is taken for %s, want %s", a, got, want)
			}
		}
	}
}

// TestPeerOfAtRandom compares with the naive way: the longest of all prefixes that contain the address.
func TestPeerOfAtRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // a test wants to be repeatable
	address := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(3)), byte(r.IntN(4))})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 7: byte(r.IntN(2)), 15: byte(r.IntN(4))})
	}
	for range 300 {
		var groups [][]netip.Prefix
		taken := map[netip.Prefix]bool{}
		for range r.IntN(6) {
			var g []netip.Prefix
			for range r.IntN(4) {
				a := address()
				if p := netip.PrefixFrom(a, a.BitLen()-r.IntN(20)).Masked(); !taken[p] {
					g, taken[p] = append(g, p), true
				}
			}
			groups = append(groups, g)
		}
		o := newOwners(groups, nil)
		for range 50 {
			a := address()
			want, bits := a, -1
			for _, g := range groups {
				for _, p := range g {
					if p.Contains(a) && p.Bits() > bits {
						want, bits = g[0].Addr(), p.Bits()
					}
				}
			}
			if got := o.peerOf(a); got != want {
				t.Fatalf("%v: %s is taken for %s, want %s", groups, a, got, want)
			}
		}
	}
}
