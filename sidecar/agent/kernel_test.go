//go:build linux

package agent

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/guest"
)

func TestMain(m *testing.M) {
	if guest.Inside() {
		if err := furnishGuest(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// furnishGuest makes of a bare guest what a pod has.
func furnishGuest() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0o600))
}

// TestOnKernelInGuest has members and gateways join, stand by, take over, carry and relay with the datapath Kernel, by the tests that there are, in a
// guest whose kernel has WireGuard.
func TestOnKernelInGuest(t *testing.T) {
	said, err := guest.RunTests(t.Context(), "../../test/guest/vm-run", []string{"MemberKeepsLastGood", "MemberRestart", "MemberSilence", "Relays", "AboutToTakeOver", "Standby",
		"StandbyCannotTakeOver", "GoneEndsWhoTakesTurns"}, 9*time.Minute, datapathVariable+"=Kernel")
	var none *guest.UnavailableError
	switch {
	case errors.As(err, &none):
		t.Skipf("SKIPPED: %v: %s", err, said)
	case err != nil:
		t.Fatal(err)
	}
}
