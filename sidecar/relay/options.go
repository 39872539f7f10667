package relay

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Options is what a Relay is made with. Only Network is required.
type Options struct {
	Network datapath.Network
	Logger  *slog.Logger // nil: discard
	// AllowInbound is asked before a peer's connection or flow is accepted, and again for the established ones on every
	// SetInbound and SetPublished; nil allows what they list. at is the address of ours that was asked for. It must not block.
	AllowInbound func(src, at netip.Addr, port uint16, proto Protocol) bool
	// OwnAddresses are the pod's: what is published never leads there, and outside nowhere at all while they cannot be told. Asked with every
	// SetPublished that leads outside; nil: none is known.
	OwnAddresses func() ([]netip.Addr, error)
	// PeerOf finds the address that stands for all of a peer's, which share its limits; nil: each stands for itself. The zero address
	// stands for those from which many peers come, each of them bounded before: they have no limits per peer. It must not block.
	PeerOf func(netip.Addr) netip.Addr
	// IsOutside says whether an address is of one of those that SetPeerLimits limits; nil: all are. It must not block.
	IsOutside func(netip.Addr) bool
	// MTU is the tunnel's inner MTU in bytes, for the size of a bulk write; zero: 1420.
	MTU    int
	Limits Limits
	// Ahead holds ports of SetEgress that are open already; nil: none is.
	Ahead *Ahead
}

// Limits bounds what a Relay holds. A zero field takes its default.
type Limits struct {
	DialTimeout        time.Duration // one attempt at one target, and waiting to begin with it; 3 s each
	DialBudget         time.Duration // all attempts for one connection; 10 s
	FailureHold        time.Duration // how long a target that failed is tried last; 5 s
	HeaderTimeout      time.Duration // a proxy client's handshake; 10 s
	UDPIdle            time.Duration // a flow without datagrams; 2 min
	DNSIdle            time.Duration // the same on port 53; 30 s
	Connections        int           // TCP connections, all together; 10,000
	ConnectionsPerPeer int           // inbound TCP connections from one peer, or egress ones from one address; 1,024
	DialsPerPeer       int           // inbound connections from one peer whose local dial is under way; the next wait; 64
	Flows              int           // UDP flows of one forward, or of all inbound ports; 1,024
	FlowsPerPeer       int           // inbound UDP flows from one peer, those to port 53 apart, or of one egress port from one address; 256
	LargeBuffers       int           // bulk buffers of 64 KiB lent at once, a quarter of them where others can do without; beyond, connections use small ones; 256
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	orDefault(&o.MTU, 1420)
	l := &o.Limits
	orDefault(&l.DialTimeout, 3*time.Second)
	orDefault(&l.DialBudget, 10*time.Second)
	orDefault(&l.FailureHold, 5*time.Second)
	orDefault(&l.HeaderTimeout, 10*time.Second)
	orDefault(&l.UDPIdle, 2*time.Minute)
	orDefault(&l.DNSIdle, 30*time.Second)
	orDefault(&l.Connections, 10_000)
	orDefault(&l.ConnectionsPerPeer, 1024)
	orDefault(&l.DialsPerPeer, 64)
	orDefault(&l.Flows, 1024)
	orDefault(&l.FlowsPerPeer, 256)
	orDefault(&l.LargeBuffers, 256)
	return o
}

// idleFor is how long a flow to that port may be silent: resolvers use a new port for each query and are done in one answer.
func (l Limits) idleFor(port uint16) time.Duration {
	if port == 53 {
		return l.DNSIdle
	}
	return l.UDPIdle
}
