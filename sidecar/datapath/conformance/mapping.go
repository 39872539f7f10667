package conformance

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// testMapping has a member and a hub reach a host behind the hub by addresses that the host does not have, and the other way round. The
// host has 10.9.0.3 and fd09::3, and is seen as 10.19.0.3 and fd19::3.
func testMapping(t *testing.T, r *room) {
	hub, member, site := r.open(1), r.open(2), r.open(3)
	behind := site.as()
	behind.Outside, behind.AllowedIPs = true, prefixes("10.19.0.2/31", "fd19::2/127")
	behind.Mappings = []datapath.Mapping{
		{Real: netip.MustParsePrefix("10.9.0.2/31"), Seen: behind.AllowedIPs[0]}, {Real: netip.MustParsePrefix("fd09::2/127"), Seen: behind.AllowedIPs[1]},
	}
	if !hub.Capabilities().Mappings {
		if err := hub.UpdatePeers([]datapath.Peer{behind}, nil); !errors.Is(err, datapath.ErrNoMappings) {
			t.Errorf("it took mappings, which it says it cannot have: %v", err)
		}
		return
	}
	asHub := hub.iface(mtu)
	asHub.Hub = true
	hub.set(asHub)
	hub.update(member.as(), behind)
	way := hub.as()
	way.AllowedIPs = append(way.AllowedIPs, behind.AllowedIPs...)
	member.update(way)
	way = hub.as()
	way.AllowedIPs = append(way.AllowedIPs, member.as().AllowedIPs...)
	site.update(way)
	for _, n := range []*node{hub, member, site} {
		n.accept(echo)
		n.echoUDP()
	}
	check := func(from *node, to netip.Addr) {
		t.Helper()
		from.say(to, "through a mapping")
		from.bulk(to)
		c := from.dialUDP(to, namePort)
		buf := make([]byte, 2000)
		for _, size := range []int{1, 1300} {
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(buf); err != nil || n != size {
				t.Fatalf("a datagram to %s came back with %d bytes, %v; want %d", to, n, err, size)
			}
		}
		_, err := from.DialTCP(r.ctx(patience), netip.AddrPortFrom(to, webPort+1))
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a port of %s that nobody listens on: %v", to, err)
		}
		if err := ask(from, to, 10); !errors.Is(err, syscall.ECONNREFUSED) { // as an ICMP error says, of a datagram that it quotes
			t.Errorf("a datagram to a port of %s that nobody listens on: %v", to, err)
		}
	}
	for _, from := range []*node{hub, member} {
		for _, to := range []string{"10.19.0.3", "fd19::3"} {
			check(from, netip.MustParseAddr(to))
		}
		check(site, from.v4)
		check(site, from.v6)
	}
}
