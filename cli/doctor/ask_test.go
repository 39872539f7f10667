package doctor

import (
	"strings"
	"testing"
	"time"
)

// What may not be listed is not said to be missing.
func TestFromIsNotKnown(t *testing.T) {
	for _, tt := range []struct {
		gap  source
		want string
	}{
		{"", "has no member and no TunnelPeer nobody"},
		{srcMembers, "you have not the right to list tunnelmembers"},
		{srcPeers, "you have not the right to list tunnelpeers"},
	} {
		f := healthy(t)
		if tt.gap != "" {
			f.gap(tt.gap, "you have not the right to "+string(tt.gap))
		}
		_, err := f.Walk(t.Context(), nil, "nobody", "web", func(string) {})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("without %q: %v, want %q", tt.gap, err, tt.want)
		}
	}
}

// Leases are held against the time at which they were read, which may be long after everything else was begun.
func TestSlowReadingIsNoClockSkew(t *testing.T) {
	f := healthy(t)
	const late = 5 * time.Minute
	f.LeasesRead = f.Now.Add(late)
	for i := range f.NodeLeases {
		f.NodeLeases[i].Spec.RenewTime.Time = testNow.Add(late - 5*time.Second)
	}
	if len(f.NodeLeases) == 0 || len(nodeClockSkew(f)) > 0 {
		t.Errorf("of %d Leases: %+v", len(f.NodeLeases), nodeClockSkew(f))
	}
	f.NodeLeases[0].Spec.RenewTime.Time = testNow
	if got := nodeClockSkew(f); len(got) != 1 {
		t.Errorf("a clock that is %s behind: %+v", late, got)
	}
}
