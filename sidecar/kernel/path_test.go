//go:build linux

package kernel_test

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
)

// TestPathThatShrinks lowers the MTU of the link beyond a router under running transfers. They go on: the kernel cuts what it sends by IPv4, and
// what it is told of by IPv6; what nobody cuts, and what is lost in pieces, is found out.
func TestPathThatShrinks(t *testing.T) {
	needKernel(t)
	hosts.ShrinkPaths(t, []hosts.PathCase{
		{Name: "over IPv6, silent", Near: openKernel, Far: openKernel, Six: true, Hush: true, Outer: 1380, Inner: 1296, State: datapath.MTUVerified},
		{Name: "with Netstack over IPv6, silent", Near: openKernel, Far: openNetstack, Six: true, Hush: true, Outer: 1380, Inner: 1296, State: datapath.MTUVerified},
		{Name: "over IPv4, fragments lost", Near: openKernel, Far: openKernel, LoseFragments: true, Outer: 1400, Inner: 1328, State: datapath.MTUVerified, Regrows: true},
		{Name: "over IPv4, in fragments", Near: openKernel, Far: openKernel, Hush: true, Outer: 1400, Inner: 1420, State: datapath.MTUVerified},
	})
}
