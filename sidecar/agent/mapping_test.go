package agent

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// What is seen of a mapped peer is the peer's, and outside; what is real is the device's affair alone.
func TestMappingsReachTheDevice(t *testing.T) {
	realRange, seen, plain := netip.MustParsePrefix("192.168.10.0/24"), netip.MustParsePrefix("192.168.20.0/24"), netip.MustParsePrefix("10.5.0.0/16")
	d := new(member).translate(wire.Config{Interface: wire.Interface{MTU: 1420, Hub: true}, Peers: []wire.Peer{
		{PublicKey: key.Public{1}, AllowedIPs: []netip.Prefix{plain}, Outside: true, Mappings: []wire.Mapping{{Real: realRange, Seen: seen}}}}})
	p := d.peers[key.Public{1}]
	if !slices.Equal(p.AllowedIPs, []netip.Prefix{plain, seen}) || !reflect.DeepEqual(p.Mappings, []datapath.Mapping{{Real: realRange, Seen: seen}}) {
		t.Errorf("the device is given %+v", p)
	}
	if d.admit(netip.MustParseAddr("192.168.20.7"), netip.MustParseAddr("10.7.0.2"), 80, relay.TCP) {
		t.Error("a mapped host counts as a member")
	}
}

// Names at a mapped site lead to what its hosts are seen as, which a gateway has in Mappings alone.
func TestLookupsOfMappedSite(t *testing.T) {
	seen := netip.MustParsePrefix("192.168.20.0/24")
	c := lookups(wire.Config{Interface: wire.Interface{Hub: true}, Lookups: &wire.Lookups{Zones: []wire.DNSZone{{Domain: "corp"}}}, Peers: []wire.Peer{
		{PublicKey: key.Public{1}, Outside: true, Mappings: []wire.Mapping{{Real: netip.MustParsePrefix("192.168.10.0/24"), Seen: seen}}}}})
	if !slices.Contains(c.Within, seen) {
		t.Errorf("within %v, want %s too", c.Within, seen)
	}
}
