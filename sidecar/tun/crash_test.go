//go:build linux

package tun_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// TestNothingLeavesByTheDefaultRoute: when the process dies, its interface goes with it. What applications send to peers must not
// leave by the default route then, until the next process has its routes; what is no peer's any more is free again.
func TestNothingLeavesByTheDefaultRoute(t *testing.T) {
	hosts.Need(t)
	l := hosts.New(t, openTUN)
	stays, goes := netip.MustParsePrefix("10.9.0.1/32"), netip.MustParsePrefix("fd00:9::2/128")
	do := func(f func() error) {
		t.Helper()
		var err error
		if l.Do(1, func() { err = f() }); err != nil {
			t.Fatal(err)
		}
	}
	do(func() error { return defaultRoutes(l) })
	leads := func(to netip.Addr) (name string) {
		l.Do(1, func() {
			if r, err := netlink.RouteGet(to.AsSlice()); err == nil && len(r) == 1 && r[0].Type != 7 { // RTN_UNREACHABLE
				if link, err := netlink.LinkByIndex(r[0].LinkIndex); err == nil {
					name = link.Attrs().Name
				}
			}
		})
		return name
	}
	expect := func(when string, want map[netip.Addr]string) {
		t.Helper()
		for to, by := range want {
			if got := leads(to); got != by {
				t.Errorf("%s: %s leaves by %q, want %q", when, to, got, by)
			}
		}
	}
	open := func() datapath.Datapath {
		d, err := l.Open(conformance.Options{Host: 1, PrivateKey: key.NewPrivate(), Interface: datapath.Interface{MTU: 1420,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.9/32"), netip.MustParsePrefix("fd00:9::9/128")}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	peer := func(a netip.Prefix) datapath.Peer {
		return datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: []netip.Prefix{a}}
	}
	d := open()
	if err := d.UpdatePeers([]datapath.Peer{peer(stays), peer(goes)}, nil); err != nil {
		t.Fatal(err)
	}
	expect("up", map[netip.Addr]string{stays.Addr(): "wg0", goes.Addr(): "wg0"})
	do(func() error { // as when the process dies
		wg0, err := netlink.LinkByName("wg0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(wg0)
	})
	expect("dead", map[netip.Addr]string{stays.Addr(): "", goes.Addr(): "", netip.MustParseAddr("10.9.0.3"): "eth0"})
	d = open()
	expect("started again", map[netip.Addr]string{stays.Addr(): "", goes.Addr(): ""})
	p := peer(stays)
	if err := d.UpdatePeers([]datapath.Peer{p}, nil); err != nil {
		t.Fatal(err)
	}
	expect("up again", map[netip.Addr]string{stays.Addr(): "wg0", goes.Addr(): "eth0"})
	if err := d.UpdatePeers(nil, []key.Public{p.PublicKey}); err != nil {
		t.Fatal(err)
	}
	expect("without peers", map[netip.Addr]string{stays.Addr(): "eth0"})
}

// defaultRoutes lead to host 2.
func defaultRoutes(l *hosts.Lab) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	var errs []error
	for _, six := range []bool{false, true} {
		errs = append(errs, netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: l.Outer(2, six).AsSlice()}))
	}
	return errors.Join(errs...)
}
