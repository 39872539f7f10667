package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Handover is how the one that becomes active learns where outside peers are that dial: they would not come back to it by themselves
// before their sessions are over.
type Handover interface {
	// Endpoints is asked once, on becoming active.
	Endpoints() map[key.Public]netip.AddrPort
	// Heard is told every second while active: where the outside peers are that were heard of lately. The map is the callee's.
	Heard(map[key.Public]netip.AddrPort)
}

// lately is how old a peer's handshake may be for the peer to count as connected: a session ends with it.
const lately = 3 * time.Minute

// keyInterval is how often preshared keys are looked at, in seconds: a volume of a Secret takes a minute to change.
const keyInterval = 5

// settling is how long after a takeover peers that have not been heard of are given to come.
const settling = time.Minute

// awaitTurn stands by until this process is the one to carry traffic. An error means that it cannot.
func (m *member) awaitTurn(ctx context.Context) error {
	if err := m.awaitActive(ctx); err != nil {
		return err
	}
	var known map[key.Public]netip.AddrPort
	if m.Handover != nil {
		known = m.Handover.Endpoints()
	}
	if err := m.plane.activate(known); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	m.Log.Info("active")
	m.poke()
	var wg sync.WaitGroup
	wg.Go(func() { m.peerLoop(ctx) })
	for n := 1; sleep(ctx, time.Second); n++ {
		if m.Handover != nil {
			m.Handover.Heard(m.plane.diallers(time.Now()))
		}
		if n%keyInterval == 0 {
			if err := m.plane.rekey(); err != nil {
				m.Log.Warn("preshared keys cannot be changed", "error", err.Error())
			}
		}
	}
	wg.Wait()
	return context.Cause(ctx)
}

// activate ends the standing by: it does what was told meanwhile, and tells peers whose endpoint is known, configured or from who was
// active before, that they are here now, so that they do not have to find out.
func (p *plane) activate(known map[key.Public]netip.AddrPort) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	told := p.told
	p.standby, p.tookOver, p.told = false, true, nil
	if told == nil {
		return nil
	}
	told.peers = maps.Clone(told.peers)
	for k, at := range known {
		if peer, ok := told.peers[k]; ok && !peer.Endpoint.IsValid() && told.names[k] == "" {
			peer.Endpoint = at
			told.peers[k] = peer
		}
	}
	err := p.applyLocked(*told)
	p.ahead.Close() // what the relay did not take over
	if err != nil {
		return err
	}
	return p.greet(slices.Collect(maps.Values(p.has.peers))...)
}

// greet begins a handshake with those peers whose endpoint is known. A keepalive that begins does so at once; those who have none
// otherwise lose it again.
func (p *plane) greet(peers ...datapath.Peer) error {
	var hello, back []datapath.Peer
	for _, peer := range peers {
		if !peer.Endpoint.IsValid() || peer.Keepalive > 0 {
			continue
		}
		back = append(back, peer)
		peer.Keepalive = time.Minute
		hello = append(hello, peer)
	}
	for _, peers := range [][]datapath.Peer{hello, back} {
		if err := p.device.UpdatePeers(peers, nil); err != nil {
			return fmt.Errorf("greet peers: %w", err)
		}
	}
	return nil
}

// peerLoop tells the coordinator which outside peers are there and which no longer, until ctx ends.
func (m *member) peerLoop(ctx context.Context) {
	began, told := time.Now(), map[key.Public]toldPeer{}
	for sleep(ctx, time.Second) {
		now := time.Now()
		changed := changes(told, m.plane.outsidePeers(now), now.Sub(began) > settling)
		if len(changed) == 0 {
			continue
		}
		if err := m.client.reportPeers(ctx, wire.PeerReport{Peers: changed}); err != nil {
			m.Log.Warn("the coordinator does not know which peers are there", "error", err.Error())
			if !sleep(ctx, jitter(m.patience)) {
				return
			}
			continue
		}
		for _, p := range changed {
			told[p.PublicKey] = toldPeer{p.Connected, p.KeptOut}
		}
	}
}

// toldPeer is what the coordinator knows of a peer.
type toldPeer struct {
	connected bool
	keptOut   wire.KeptOut
}

// changes are what is not told yet, as much of it as fits a report. Who was never heard of is worth telling once all have settled.
func changes(told map[key.Public]toldPeer, peers []wire.PeerState, settled bool) (out []wire.PeerState) {
	there := make(map[key.Public]bool, len(peers))
	for _, p := range peers {
		there[p.PublicKey] = true
		now := toldPeer{p.Connected, p.KeptOut}
		if was, known := told[p.PublicKey]; known && was != now || !known && (now != toldPeer{} || settled) {
			out = append(out, p)
		}
	}
	for k, was := range told {
		switch {
		case there[k]:
		case was != toldPeer{}:
			out = append(out, wire.PeerState{PublicKey: k})
		default:
			delete(told, k) // gone, and nothing is left to say
		}
	}
	slices.SortFunc(out, func(a, b wire.PeerState) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out[:min(len(out), wire.MaxPeerStates)]
}

// outsidePeers are those that the plane has, and those that it keeps out.
func (p *plane) outsidePeers(now time.Time) (out []wire.PeerState) {
	live := p.livePeers()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range live {
		if has, ok := p.has.peers[s.PublicKey]; ok && has.Outside {
			out = append(out, wire.PeerState{PublicKey: s.PublicKey, Connected: now.Sub(s.LastHandshake) < lately, LastHandshake: s.LastHandshake})
		}
	}
	for k, why := range p.keptOut {
		out = append(out, wire.PeerState{PublicKey: k, KeptOut: why})
	}
	return out
}

// diallers are the outside peers that were heard of lately, but those that are looked up by name, and where they are.
func (p *plane) diallers(now time.Time) map[key.Public]netip.AddrPort {
	live := p.livePeers()
	out := map[key.Public]netip.AddrPort{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range live {
		has, ok := p.has.peers[s.PublicKey]
		if ok && has.Outside && p.has.names[s.PublicKey] == "" && s.Endpoint.IsValid() && now.Sub(s.LastHandshake) < lately {
			out[s.PublicKey] = s.Endpoint
		}
	}
	return out
}
