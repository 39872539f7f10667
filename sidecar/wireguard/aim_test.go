package wireguard

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// TestAim: who answered is asked on when others come or go; once it is gone, or silent, the others have their turn.
func TestAim(t *testing.T) {
	p := &peer{engine: bare(nil)}
	o := &p.path
	asked := func() netip.Addr { return o.targets[o.turn%len(o.targets)] }
	aim := func(to ...string) {
		is := datapath.Peer{}
		for _, a := range to {
			is.Answers = append(is.Answers, netip.MustParseAddr(a))
		}
		p.aim(is)
		if !slices.Equal(o.targets, is.Answers) {
			t.Errorf("aimed at %s, want %s", o.targets, is.Answers)
		}
	}
	aim("10.9.0.2", "10.9.0.3")
	o.turn, o.search.trip = 5, time.Millisecond // the second has answered
	aim("10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4")
	if asked() != netip.MustParseAddr("10.9.0.3") || o.search.trip == 0 {
		t.Errorf("others came: %s is asked, trip %s", asked(), o.search.trip)
	}
	aim("10.9.0.1", "10.9.0.4")
	if o.search.trip != 0 {
		t.Error("it is gone: no other has its turn")
	}
	o.search.trip = time.Millisecond
	o.search.silent(1)
	if o.search.trip != 0 {
		t.Error("it is silent: no other has its turn")
	}
}
