package netstack

import (
	"net/netip"
	"testing"
	"time"
)

// TestResets: an address has its resets at once, then one whenever one is due, and takes none of another's.
func TestResets(t *testing.T) {
	var r resets
	now := time.Unix(1, 0)
	many := func(to string, n int) (got int) {
		for range n {
			if r.admits(netip.MustParseAddr(to), now) {
				got++
			}
		}
		return got
	}
	if got := many("10.9.0.1", 10_000); got != resetsAtOnce {
		t.Errorf("%d at once, want %d", got, resetsAtOnce)
	}
	free := 0 // a hash may put some together
	for _, to := range []string{"10.9.0.2", "10.9.0.3", "2001:db8::1", "2001:db8::2"} {
		if many(to, 1) == 1 {
			free++
		}
	}
	if free == 0 {
		t.Error("others get none")
	}
	now = now.Add(time.Second / 4)
	if got := many("10.9.0.1", 10_000); got != resetsPerSecond/4 {
		t.Errorf("%d in a quarter of a second, want %d", got, resetsPerSecond/4)
	}
	now = now.Add(time.Hour)
	if got := many("10.9.0.1", 10_000); got != resetsAtOnce {
		t.Errorf("%d after an hour, want %d", got, resetsAtOnce)
	}
}
