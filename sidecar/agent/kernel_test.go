//go:build linux

package agent

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
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
	if guest.Inside() {
		t.Skip("this is the guest")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := []string{"MemberKeepsLastGood", "MemberRestart", "MemberSilence", "Relays", "AboutToTakeOver", "Standby", "StandbyCannotTakeOver", "GoneEndsWhoTakesTurns"}
	var out bytes.Buffer
	err = guest.Run(t.Context(), guest.Command{VMRun: "../../test/guest/vm-run", Timeout: 10 * time.Minute,
		Args:   []string{"/usr/bin/env", datapathVariable + "=Kernel", self, "-test.run", "^Test(" + strings.Join(tests, "|") + ")$", "-test.short", "-test.v", "-test.timeout", "9m"},
		Output: io.MultiWriter(&out, os.Stdout)})
	var none *guest.UnavailableError
	switch {
	case errors.As(err, &none):
		t.Skipf("SKIPPED: %v: %s", err, &out)
	case err != nil:
		t.Fatal(err)
	case strings.Count(out.String(), "\n--- PASS") < len(tests):
		t.Fatal("not all of it ran in the guest")
	}
}
