//go:build linux

package tun_test

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
)

// TestPathThatShrinks lowers the MTU of the link beyond a router under running transfers. They go on, whether the router says so or not.
func TestPathThatShrinks(t *testing.T) {
	hosts.ShrinkPaths(t, []hosts.PathCase{
		{Name: "Netstack over IPv4, silent", Near: openNetstack, Far: openNetstack, Hush: true, Outer: 1400, Inner: 1328, State: datapath.MTUVerified},
		{Name: "Netstack over IPv6, silent", Near: openNetstack, Far: openNetstack, Six: true, Hush: true, Outer: 1380, Inner: 1296, State: datapath.MTUVerified},
		{Name: "TUN over IPv4, silent", Near: openTUN, Far: openTUN, Hush: true, Outer: 1400, Inner: 1328, State: datapath.MTUVerified},
		{Name: "TUN over IPv6, silent", Near: openTUN, Far: openTUN, Six: true, Hush: true, Outer: 1380, Inner: 1296, State: datapath.MTUVerified},
		{Name: "TUN with Netstack over IPv4, said", Near: openNetstack, Far: openTUN, Outer: 1400, Inner: 1328, State: datapath.MTUVerified},
		{Name: "less than IPv6 needs, silent", Near: openNetstack, Far: openTUN, Hush: true, Outer: 1300, Inner: 1232, State: datapath.MTUBlackHole},
		{Name: "less than IPv6 needs over IPv6, said", Near: openTUN, Far: openNetstack, Six: true, Outer: 1280, Inner: 1200, State: datapath.MTUBlackHole},
	})
}
