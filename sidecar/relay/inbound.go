package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/slots"
)

// Inbound opens one port of the tunnel address to peers.
type Inbound struct {
	Port     uint16 // on the tunnel address
	Protocol Protocol
	To       netip.AddrPort // loopback only
}

type inboundKey struct {
	proto Protocol
	port  uint16
	at    netip.Addr // of what is published; zero: all other addresses of ours
}

// inboundPort is one listed port; its context ends what came in through it.
type inboundPort struct {
	key     inboundKey
	to      netip.AddrPort
	service string   // of what is published
	targets []target // of what is published
	meter   *meter
	ctx     context.Context
	cancel  context.CancelFunc
}

// inboundSide answers what peers ask for.
type inboundSide struct {
	r     *Relay
	dials *slots.Slots
	conns *slots.Slots
	flows *slots.Slots
	table *flowTable[inboundFlow]
	// Flows to port 53 have a table of their own: a table has one idle time. They are counted apart too: each look-up is one.
	dnsFlows *slots.Slots
	dnsTable *flowTable[inboundFlow]
	limits   peerLimits
	balancer *balancer[target] // of what is published
	pods     podNetwork

	mu        sync.Mutex
	ports     map[inboundKey]*inboundPort
	published map[netip.Addr]struct{} // where nothing but what is published is answered for
	live      map[*inboundConn]struct{}
	silent    silence
}

// inboundConn is an accepted connection as policy sees it.
type inboundConn struct {
	src    netip.Addr
	at     netip.Addr // ours
	port   *inboundPort
	cancel context.CancelFunc
}

func newInboundSide(r *Relay) *inboundSide {
	l := r.opts.Limits
	in := &inboundSide{
		r:     r,
		dials: slots.New(0, l.DialsPerPeer), conns: slots.New(0, l.ConnectionsPerPeer), flows: slots.New(0, l.FlowsPerPeer),
		dnsFlows: slots.New(0, l.FlowsPerPeer),
		table:    newFlowTable[inboundFlow](l.UDPIdle, l.Flows), dnsTable: newFlowTable[inboundFlow](l.DNSIdle, l.Flows),
		balancer: newBalancer[target](l.FailureHold), pods: podNetwork(kernelNetwork{}),
		ports: map[inboundKey]*inboundPort{}, live: map[*inboundConn]struct{}{},
	}
	for _, held := range []*slots.Slots{in.dials, in.conns, in.flows, in.dnsFlows} {
		held.GroupBy(r.opts.PeerOf)
	}
	in.conns.BoundBy(r.mostOf(&in.limits.connections, l.ConnectionsPerPeer))
	in.flows.BoundBy(r.mostOf(&in.limits.flows, l.FlowsPerPeer))
	in.table.yields, in.dnsTable.yields = fromHeaviest(in.flows), fromHeaviest(in.dnsFlows)
	return in
}

// SetInbound makes the given ports the ones that peers reach. A new destination applies to new connections; connections to a
// port that is gone, and those that AllowInbound no longer allows, are reset. What is wrong with one entry does not keep the
// others out; the error names each.
func (r *Relay) SetInbound(all []Inbound) error {
	r.setMu.Lock()
	defer r.setMu.Unlock()
	if r.isDraining() {
		return ErrDraining
	}
	want, bad := planInbound(all)
	r.inbound.set(want, false)
	r.inbound.attach()
	return errors.Join(bad...)
}

// attach begins accepting.
func (in *inboundSide) attach() {
	in.r.network.HandleTCP(in.handleTCP)
	in.r.network.HandleUDP(in.handleUDP)
}

func planInbound(all []Inbound) (want map[inboundKey]*inboundPort, bad []error) {
	want = map[inboundKey]*inboundPort{}
	for _, in := range all {
		to, err := checkLoopback(in.To)
		key := inboundKey{proto: in.Protocol, port: in.Port}
		_, twice := want[key]
		switch {
		case in.Port == 0:
			err = errors.New("port is not set")
		case in.Protocol != TCP && in.Protocol != UDP:
			err = fmt.Errorf("protocol %q is not TCP or UDP", in.Protocol)
		case twice:
			err = errors.New("port is listed twice")
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("inbound %s %d: %w", in.Protocol, in.Port, err))
			continue
		}
		want[key] = &inboundPort{key: key, to: to}
	}
	return want, bad
}

// refusedMeter counts what asked for a port that is not listed.
var refusedMeter = meterKey{Accepted, "other", ""}

func (p *inboundPort) meterKey() meterKey {
	if p.service != "" {
		return meterKey{Accepted, fmt.Sprintf("%s:%d", p.service, p.key.port), p.key.proto}
	}
	return meterKey{Accepted, fmt.Sprint(p.key.port), p.key.proto}
}

// set takes the place of all that is published, or of all else.
func (in *inboundSide) set(want map[inboundKey]*inboundPort, published bool) {
	keep := map[meterKey]bool{refusedMeter: true}
	in.mu.Lock()
	for key, p := range in.ports {
		if next := want[key]; key.at.IsValid() == published && (next == nil || next.service != p.service) {
			p.cancel()
			delete(in.ports, key)
		}
	}
	for key, next := range want {
		next.meter = in.r.meterFor(next.meterKey())
		if p := in.ports[key]; p != nil {
			next.ctx, next.cancel = p.ctx, p.cancel
		} else {
			next.ctx, next.cancel = in.r.context()
		}
		in.ports[key] = next
	}
	in.published = map[netip.Addr]struct{}{}
	for key, p := range in.ports {
		keep[p.meterKey()] = true
		if key.at.IsValid() {
			in.published[key.at] = struct{}{}
		}
	}
	for c := range in.live {
		if !in.allowed(c.src, c.at, c.port.key) {
			c.cancel()
		}
	}
	in.mu.Unlock()
	in.recheckFlows()
	in.r.pruneMeters(Accepted, keep)
}

func (in *inboundSide) allowed(src, at netip.Addr, k inboundKey) bool {
	allow := in.r.opts.AllowInbound
	return allow == nil || allow(src, at, k.port, k.proto)
}

// find is the port that is open there; nil: none. It needs the lock.
func (in *inboundSide) find(at netip.AddrPort, proto Protocol) *inboundPort {
	key := inboundKey{proto: proto, port: at.Port()}
	if _, own := in.published[at.Addr()]; own {
		key.at = at.Addr()
	}
	return in.ports[key]
}

// detach stops accepting.
func (in *inboundSide) detach() {
	in.r.network.HandleTCP(nil)
	in.r.network.HandleUDP(nil)
}

func (in *inboundSide) abort() {
	in.mu.Lock()
	for key, p := range in.ports {
		p.cancel()
		delete(in.ports, key)
	}
	in.mu.Unlock()
	in.table.close()
	in.dnsTable.close()
}

// admit finds the port a peer asks for and says whether it may have it.
func (in *inboundSide) admit(src netip.Addr, at netip.AddrPort, proto Protocol) (*inboundPort, Reason) {
	in.mu.Lock()
	p := in.find(at, proto)
	in.mu.Unlock()
	switch {
	case p == nil:
		return nil, NotExposed
	case !in.allowed(src, at.Addr(), p.key):
		return p, NotAllowed
	}
	return p, None
}

func (in *inboundSide) refused(p *inboundPort, why Reason, src netip.Addr) {
	m := in.r.meterFor(refusedMeter)
	if p != nil {
		m = p.meter
	}
	in.r.failed(m, why, "from", src)
}

// track makes the connection one that a change of policy ends; nil when the port has just gone or policy has just changed.
func (in *inboundSide) track(src, at netip.Addr, p *inboundPort) (*inboundConn, context.Context) {
	ctx, cancel := context.WithCancel(p.ctx)
	c := &inboundConn{src: src, at: at, port: p, cancel: cancel}
	in.mu.Lock()
	defer in.mu.Unlock()
	if p.ctx.Err() != nil || !in.allowed(src, at, p.key) {
		cancel()
		return nil, nil
	}
	in.live[c] = struct{}{}
	return c, ctx
}

func (in *inboundSide) untrack(c *inboundConn) {
	c.cancel()
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.live, c)
}

// dial connects to what is behind a port. On None the caller calls ended when the connection has.
func (in *inboundSide) dial(ctx context.Context, src netip.Addr, p *inboundPort) (s datapath.Stream, ended func(), why Reason) {
	if !in.dials.Take(src) {
		if why := in.awaitDial(ctx, src); why != None {
			return nil, nil, why
		}
		p = in.current(p)
	}
	defer in.dials.Give(src)
	if p.service != "" {
		s, t, why := dialAny(ctx, in.r, in.balancer, in.balancer.order(p.targets, time.Now()), in.dialTarget)
		return s, func() { in.balancer.end(t) }, why
	}
	local, err := dialLocalTCP(ctx, p.to, in.r.opts.Limits.DialTimeout)
	return local, func() {}, dialReason(ctx, err)
}

// awaitDial waits for its turn among the peer's dials: many connections that begin at once are no fault, and the peer's TCP waits as well, though not
// for longer than one attempt may take.
func (in *inboundSide) awaitDial(ctx context.Context, src netip.Addr) Reason {
	limited, cancel := context.WithTimeout(ctx, in.r.opts.Limits.DialTimeout)
	defer cancel()
	switch {
	case in.dials.Await(limited, src):
		return None
	case ctx.Err() != nil:
		return Aborted
	}
	return Limit
}

// current is the port as it is now: its destination may have changed.
func (in *inboundSide) current(p *inboundPort) *inboundPort {
	in.mu.Lock()
	defer in.mu.Unlock()
	if now := in.ports[p.key]; now != nil {
		return now
	}
	return p
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
