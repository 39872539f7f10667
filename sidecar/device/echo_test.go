package device

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Peers answer echo requests of every size, of both families, and nobody answers for who is not there.
func TestEcho(t *testing.T) {
	a, b := pair(t)
	for _, to := range []netip.Addr{b.v4, b.v6} {
		for _, size := range []int{100, 1280, 1419, 1420} {
			if err := a.Echo(ctx(t, 10*time.Second), to, size); err != nil {
				t.Errorf("%s, %d bytes: %v", to, size, err)
			}
		}
		for _, size := range []int{0, 27, 1421} {
			if err := a.Echo(ctx(t, time.Second), to, size); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s, %d bytes: %v", to, size, err)
			}
		}
	}
	update(t, a, datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: prefixes(t, "10.9.0.77/32"), Endpoint: b.as().Endpoint})
	if err := a.Echo(ctx(t, 300*time.Millisecond), netip.MustParseAddr("10.9.0.77"), 100); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of nobody: %v", err)
	}
	if err := a.Echo(ctx(t, time.Second), netip.MustParseAddr("127.0.0.1"), 100); !errors.Is(err, datapath.ErrNotUnicast) {
		t.Errorf("of loopback: %v", err)
	}
}
