package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

func TestChangesOfPeers(t *testing.T) {
	at := func(k byte, connected bool) wire.PeerState {
		return wire.PeerState{PublicKey: key.Public{k}, Connected: connected}
	}
	out := func(k byte) wire.PeerState {
		return wire.PeerState{PublicKey: key.Public{k}, KeptOut: wire.NoPresharedKey}
	}
	for name, c := range map[string]struct {
		told    map[key.Public]toldPeer
		peers   []wire.PeerState
		settled bool
		want    []wire.PeerState
	}{
		"nothing":                 {},
		"first":                   {nil, []wire.PeerState{at(2, true), at(1, true)}, false, []wire.PeerState{at(1, true), at(2, true)}},
		"same":                    {map[key.Public]toldPeer{{1}: {connected: true}, {2}: {}}, []wire.PeerState{at(1, true), at(2, false)}, true, nil},
		"comes and goes":          {map[key.Public]toldPeer{{1}: {connected: true}, {2}: {}}, []wire.PeerState{at(1, false), at(2, true)}, false, []wire.PeerState{at(1, false), at(2, true)}},
		"never heard of":          {nil, []wire.PeerState{at(1, false)}, false, nil},
		"never heard of, settled": {nil, []wire.PeerState{at(1, false)}, true, []wire.PeerState{at(1, false)}},
		"kept out":                {nil, []wire.PeerState{out(1)}, false, []wire.PeerState{out(1)}},
		"still kept out":          {map[key.Public]toldPeer{{1}: {keptOut: wire.NoPresharedKey}}, []wire.PeerState{out(1)}, true, nil},
		"let in":                  {map[key.Public]toldPeer{{1}: {keptOut: wire.NoPresharedKey}}, []wire.PeerState{at(1, false)}, false, []wire.PeerState{at(1, false)}},
		"removed":                 {map[key.Public]toldPeer{{1}: {connected: true}, {2}: {}}, nil, true, []wire.PeerState{at(1, false)}},
	} {
		if d := cmp.Diff(c.want, changes(c.told, c.peers, c.settled)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	var many []wire.PeerState
	for i := range 3 * wire.MaxPeerStates {
		many = append(many, wire.PeerState{PublicKey: key.Public{byte(i), byte(i >> 8), 1}, Connected: true})
	}
	told, rounds := map[key.Public]toldPeer{}, 0
	for ; len(told) < len(many) && rounds < 10; rounds++ {
		for _, p := range changes(told, many, false) {
			told[p.PublicKey] = toldPeer{connected: p.Connected}
		}
	}
	if rounds != 3 {
		t.Errorf("%d of %d told in %d reports", len(told), len(many), rounds)
	}
}
