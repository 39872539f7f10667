package tenant

import (
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// limits are what outside peers are held to: packets pass the gateway, connections end at members or at the gateway's own addresses.
// Nil: nothing is said.
type limits struct{ gateway, members *wire.Limits }

// peerLimits leaves out what the schema would refuse.
func peerLimits(g *v1alpha1.Gateway) limits {
	if g == nil {
		return limits{}
	}
	l := wire.Limits{
		Handshakes:  int(within(int64(g.Limits.HandshakesPerPeer), wire.MinHandshakes, wire.MaxHandshakes)),
		Connections: int(within(int64(g.Limits.ConnectionsPerPeer), 1, wire.MaxConnectionsPerPeer)),
		Flows:       int(within(int64(g.Limits.FlowsPerPeer), 1, wire.MaxFlowsPerPeer)),
	}
	if q := g.Limits.BandwidthPerPeer; q != nil {
		l.Bandwidth = within(q.Value(), wire.MinBandwidth, wire.MaxBandwidth)
	}
	return limits{orNone(l), orNone(wire.Limits{Connections: l.Connections, Flows: l.Flows})}
}

func orNone(l wire.Limits) *wire.Limits {
	if l == (wire.Limits{}) {
		return nil
	}
	return &l
}

// within is zero where v is out of bounds.
func within(v, low, high int64) int64 {
	if v < low || v > high {
		return 0
	}
	return v
}

// numberOwners says which of a gateway's addresses, sorted, are one outside peer's; those of the gateways themselves are number 0. Nil: all
// are.
func numberOwners(all []netip.Prefix, outside []wire.Peer) []int {
	index := make(map[netip.Prefix]int, len(all))
	for i, p := range outside {
		for _, a := range p.Ranges() {
			index[a] = i + 1
		}
	}
	numbers, out := map[int]int{0: 0}, make([]int, len(all))
	for i, a := range all {
		n, ok := numbers[index[a]]
		if !ok {
			n = len(numbers)
			numbers[index[a]] = n
		}
		out[i] = n
	}
	if len(numbers) < 2 {
		return nil
	}
	return out
}
