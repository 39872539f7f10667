package pathmtu

import (
	"net/netip"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

var own = []netip.Addr{netip.MustParseAddr("10.9.0.100"), netip.MustParseAddr("fd09::100")}

func peerAt(to ...string) (p datapath.Peer) {
	for _, a := range to {
		p.Answers = append(p.Answers, netip.MustParseAddr(a))
	}
	return p
}

func (a *Aim) expect(t *testing.T, from, to string) {
	t.Helper()
	gotFrom, gotTo, ok := a.Choose(own)
	if !ok || gotFrom != netip.MustParseAddr(from) || gotTo != netip.MustParseAddr(to) {
		t.Errorf("from %s to %s, %t; want from %s to %s", gotFrom, gotTo, ok, from, to)
	}
}

// TestAim: who answered is asked on when others come or go; once it is gone the others have their turn.
func TestAim(t *testing.T) {
	var a Aim
	if _, _, ok := a.Choose(own); ok || !a.None() {
		t.Error("nobody is asked")
	}
	if !a.Set(peerAt("10.9.0.2", "10.9.0.3")) || a.Set(peerAt("10.9.0.2", "10.9.0.3")) {
		t.Error("the first is not new, or the same are")
	}
	a.Other()
	a.expect(t, "10.9.0.100", "10.9.0.3")
	if a.Set(peerAt("10.9.0.1", "10.9.0.2", "10.9.0.3", "fd09::1")) {
		t.Error("others came, and the one that is asked is new")
	}
	a.expect(t, "10.9.0.100", "10.9.0.3")
	a.Other()
	a.expect(t, "fd09::100", "fd09::1")
	if !a.Set(peerAt("10.9.0.1", "10.9.0.3")) {
		t.Error("the one that was asked is gone, and no other is new")
	}
	a.expect(t, "10.9.0.100", "10.9.0.1")
}

// TestAimAtItself: an address that is ours too is nobody's to answer from, nor one of a family that we have none of.
func TestAimAtItself(t *testing.T) {
	var a Aim
	a.Set(peerAt("10.9.0.100", "10.9.0.7"))
	a.expect(t, "10.9.0.100", "10.9.0.7")
	a.Set(peerAt("10.9.0.100"))
	if from, to, ok := a.Choose(own); ok {
		t.Errorf("from %s to %s", from, to)
	}
	a.Set(peerAt("10.9.0.7"))
	if from, to, ok := a.Choose(own[1:]); ok {
		t.Errorf("from %s to %s", from, to)
	}
}

// TestAimWithoutWord asks, where nobody has said what the peer answers from, the allowed IPs that are single addresses.
func TestAimWithoutWord(t *testing.T) {
	var a Aim
	a.Set(datapath.Peer{AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16"), netip.MustParsePrefix("10.9.0.5/32")}})
	a.expect(t, "10.9.0.100", "10.9.0.5")
	a.Set(datapath.Peer{AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16")}})
	if !a.None() {
		t.Error("a network is asked")
	}
}
