//go:build linux

package kernel_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/guest"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/kernel"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

func openKernel(o conformance.Options) (datapath.Datapath, error) {
	d, err := kernel.Open(kernel.Options{Name: "wg0", PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func openTUN(o conformance.Options) (datapath.Datapath, error) {
	d, err := tun.Open(tun.Options{Name: "wg0", PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func openNetstack(o conformance.Options) (datapath.Datapath, error) {
	d, err := device.Open(device.Options{PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// like is an interface to try.
var like = datapath.Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("fd74:6e77::1/128")}, MTU: 1420}

// probe tries for a WireGuard interface in a namespace of its own.
func probe(t *testing.T) (err error) {
	t.Helper()
	hosts.Need(t)
	hosts.New(t, nil).Do(1, func() { err = kernel.Probe("wg0", like) })
	return err
}

func needKernel(t *testing.T) {
	t.Helper()
	if err := probe(t); err != nil {
		t.Skipf("SKIPPED here, TestInGuest runs it on another kernel: %v", err)
	}
}

func TestConformance(t *testing.T) {
	needKernel(t)
	conformance.Run(t, func(t testing.TB) conformance.Lab { return hosts.New(t, openKernel) })
}

// TestInterop runs the suite between kernel WireGuard and each of the others, whichever dials; with -short what they may disagree in.
func TestInterop(t *testing.T) {
	needKernel(t)
	run := conformance.Run
	if testing.Short() {
		run = conformance.RunBetween
	}
	for name, pair := range map[string][2]hosts.Opener{ // of odd and even hosts
		"Kernel dials Netstack": {openKernel, openNetstack}, "Netstack dials Kernel": {openNetstack, openKernel},
		"Kernel dials TUN": {openKernel, openTUN}, "TUN dials Kernel": {openTUN, openKernel},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t testing.TB) conformance.Lab {
				return hosts.New(t, func(o conformance.Options) (datapath.Datapath, error) { return pair[1-o.Host%2](o) })
			})
		})
	}
}

// vmRun runs a command in a guest with a kernel that has WireGuard; see its --help.
const vmRun = "../../test/guest/vm-run"

// TestInGuest runs the tests of this package in a guest, where this machine's kernel has no WireGuard, with -short, as guests are emulated and slow; or those
// that TENANTWIRE_GUEST_TESTS names (without "Test", separated by commas).
func TestInGuest(t *testing.T) {
	if err := probe(t); err == nil {
		t.Skip("this kernel has WireGuard: the tests of this package ran here")
	}
	tests, limit := []string{"Conformance", "Interop", "Plaintext", "PathThatShrinks", "Fence", "HubHops", "HubLeadsNowhereElse", "HubLimits", "HubChangesDisturbNobody", "HubTellsTCPOfShortPaths"}, 18*time.Minute
	if f := os.Getenv("TENANTWIRE_GUEST_TESTS"); f != "" {
		tests, limit = strings.Split(f, ","), 38*time.Minute
	}
	said, err := guest.RunTests(t.Context(), vmRun, tests, limit)
	var none *guest.UnavailableError
	switch {
	case errors.As(err, &none):
		t.Skipf("SKIPPED: %v: %s", err, said)
	case err != nil:
		t.Fatal(err)
	}
}
