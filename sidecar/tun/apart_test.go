//go:build linux

package tun_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

// openApart opens a TUN device as a gateway has it.
func openApart(o conformance.Options) (datapath.Datapath, error) {
	d, err := tun.Open(tun.Options{Name: "wg0", PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface, Apart: true})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// A peer that routes everything, the machine's own network included, gets what comes from the tunnel's addresses and nothing else, while
// the interface is there and after a process that died; and nothing is left of it.
func TestApartTakesNothingFromTheMachine(t *testing.T) {
	hosts.Need(t)
	lab := hosts.New(t, openApart)
	own4, own6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	iface := datapath.Interface{Addresses: []netip.Prefix{netip.PrefixFrom(own4, 32), netip.PrefixFrom(own6, 128)}, MTU: 1420}
	peer := datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"),
		netip.MustParsePrefix("198.51.100.0/25"), netip.MustParsePrefix("2001:db8::/65")}}
	way := func(to, from netip.Addr) string {
		t.Helper()
		o := &netlink.RouteGetOptions{}
		if from.IsValid() {
			o.SrcAddr = from.AsSlice()
		}
		var name string
		lab.Do(1, func() {
			r, err := netlink.RouteGetWithOptions(net.IP(to.AsSlice()), o)
			if err != nil || len(r) == 0 {
				name = "none"
				return
			}
			link, err := netlink.LinkByIndex(r[0].LinkIndex)
			if err != nil {
				t.Error(err)
				return
			}
			name = link.Attrs().Name
		})
		return name
	}
	expect := func(when string, machine, tunnel string) {
		t.Helper()
		for to, own := range map[netip.Addr]netip.Addr{lab.Outer(3, false): own4, lab.Outer(3, true): own6} {
			if got := way(to, netip.Addr{}); got != machine {
				t.Errorf("%s the machine's way to %s is %s, want %s", when, to, got, machine)
			}
			if got := way(to, own); got != tunnel {
				t.Errorf("%s the tunnel's way to %s is %s, want %s", when, to, got, tunnel)
			}
		}
	}
	open := func() datapath.Datapath {
		t.Helper()
		d, err := lab.Open(conformance.Options{Host: 1, PrivateKey: key.NewPrivate(), Interface: iface})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	expect("without peers", "eth0", "none")
	if err := d.UpdatePeers([]datapath.Peer{peer}, nil); err != nil {
		t.Fatal(err)
	}
	expect("with a peer", "eth0", "wg0")

	// As the kernel does when the process dies: the interface goes, and the rest stays.
	lab.Do(1, func() {
		link, err := netlink.LinkByName("wg0")
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			t.Error(err)
		}
	})
	expect("after a crash", "eth0", "none")
	_ = d.Close()
	d = open()
	if err := d.UpdatePeers([]datapath.Peer{peer}, nil); err != nil {
		t.Fatal(err)
	}
	expect("once more", "eth0", "wg0")
	if err := d.SetInterface(datapath.Interface{Addresses: iface.Addresses[1:], MTU: 1420}); err != nil {
		t.Fatal(err)
	}
	lab.Do(1, func() {
		if rules, err := netlink.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Table: 0x7477}, netlink.RT_FILTER_TABLE); err != nil || len(rules) != 0 {
			t.Errorf("rules of an address that is gone: %v, %v", rules, err)
		}
	})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	lab.Do(1, func() {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleListFiltered(family, &netlink.Rule{Table: 0x7477}, netlink.RT_FILTER_TABLE)
			routes, err2 := netlink.RouteListFiltered(family, &netlink.Route{Table: 0x7477}, netlink.RT_FILTER_TABLE)
			if err != nil || err2 != nil || len(rules)+len(routes) != 0 {
				t.Errorf("left: %v, %v; %v, %v", rules, routes, err, err2)
			}
		}
	})
}
