package wire

import "fmt"

// Bounds of limits: what is less would shut a peer out, what is more bounds nothing or leaves no room for others.
const (
	MinBandwidth          = 64_000          // bits per second
	MaxBandwidth          = 100_000_000_000 // bits per second
	MinHandshakes         = 10              // a minute: WireGuard asks every five seconds while it has no answer
	MaxHandshakes         = 3000            // a minute
	MaxConnectionsPerPeer = 5000
	MaxFlowsPerPeer       = 512
)

// Limits bound what one outside peer can take. A zero field is not said: it is what it is without.
type Limits struct {
	Bandwidth   int64 `json:"bandwidth,omitempty"`   // of a gateway: bits per second of WireGuard packets, each way
	Handshakes  int   `json:"handshakes,omitempty"`  // of a gateway: a minute
	Connections int   `json:"connections,omitempty"` // TCP connections to the member
	Flows       int   `json:"flows,omitempty"`       // UDP flows to the member
}

func (l *Limits) validate() error {
	if l == nil {
		return nil
	}
	for _, f := range []struct {
		name             string
		value, low, high int64
	}{
		{"bandwidth", l.Bandwidth, MinBandwidth, MaxBandwidth}, {"handshakes", int64(l.Handshakes), MinHandshakes, MaxHandshakes},
		{"connections", int64(l.Connections), 1, MaxConnectionsPerPeer}, {"flows", int64(l.Flows), 1, MaxFlowsPerPeer},
	} {
		if f.value != 0 && (f.value < f.low || f.value > f.high) {
			return fmt.Errorf("limits.%s: %d is not 0 or %d..%d", f.name, f.value, f.low, f.high)
		}
	}
	return nil
}

// diffLimits is nil where nothing changed; limits that go are replaced by none.
func diffLimits(from, to *Limits) *Limits {
	switch {
	case from == nil && to == nil || from != nil && to != nil && *from == *to:
		return nil
	case to == nil:
		return &Limits{}
	}
	return to
}

// applied is what a delta makes of old limits. None is nil, so that equal configurations are deeply equal.
func (l *Limits) applied(old *Limits) *Limits {
	switch {
	case l == nil:
		return old
	case *l == Limits{}:
		return nil
	}
	return l
}

func (p Peer) validateOwners() error {
	if n := len(p.Owners); n != 0 && n != len(p.AllowedIPs) {
		return fmt.Errorf("%d numbers for %d allowedIPs, want as many, or none", n, len(p.AllowedIPs))
	}
	for _, o := range p.Owners {
		if o < 0 || o >= len(p.AllowedIPs) {
			return fmt.Errorf("%d is not 0..%d", o, len(p.AllowedIPs)-1)
		}
	}
	return nil
}
