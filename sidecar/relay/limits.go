package relay

import (
	"net/netip"
	"sync/atomic"

	"github.com/tenantwire/tenantwire/sidecar/datapath/slots"
)

// peerLimits are what SetPeerLimits was told; zero: nothing.
type peerLimits struct{ connections, flows atomic.Int64 }

// SetPeerLimits changes how many connections and UDP flows an outside peer may have open to us; zero is what the Options say, which is what
// all others may have. Flows to port 53 are not limited by it. Those that are open stay.
func (r *Relay) SetPeerLimits(connections, flows int) {
	r.inbound.limits.connections.Store(int64(connections))
	r.inbound.limits.flows.Store(int64(flows))
}

// mostOf finds how many of something the peer of an address may have.
func (r *Relay) mostOf(told *atomic.Int64, usual int) func(netip.Addr) int {
	return func(src netip.Addr) int {
		outside := r.opts.IsOutside
		if n := int(told.Load()); n > 0 && (outside == nil || outside(src)) {
			return n
		}
		return usual
	}
}

// slotsFor says who has how many flows of those that are in tableFor the port.
func (in *inboundSide) slotsFor(port uint16) *slots.Slots {
	if port == 53 {
		return in.dnsFlows
	}
	return in.flows
}

// takeFlow takes a place for a flow of the peer's. On port 53 the peer's oldest gives way: nobody says when a look-up is over, and of
// many the oldest is.
func (in *inboundSide) takeFlow(src netip.Addr, port uint16, m *meter) bool {
	held := in.slotsFor(port)
	if held.Take(src) {
		return true
	}
	if held != in.dnsFlows || !in.dnsTable.evict(fromPeer(held.PeerOf(src))) {
		return false
	}
	m.fail(Evicted)
	return held.Take(src)
}

// fromHeaviest matches the flows of the peer that has the most: where all share a table that is full, it is the one to give way.
func fromHeaviest(held *slots.Slots) func() func(*flow[inboundFlow]) bool {
	return func() func(*flow[inboundFlow]) bool { return fromPeer(held.Heaviest()) }
}

func fromPeer(is func(netip.Addr) bool) func(*flow[inboundFlow]) bool {
	return func(f *flow[inboundFlow]) bool { return is(f.key.remote.Addr().Unmap()) }
}
