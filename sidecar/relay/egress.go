package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/tenantwire/tenantwire/sidecar/datapath/slots"
)

// Egress makes a port of the pod's own address a way into the tunnel for other pods, those that SetEgress lists.
type Egress struct {
	Name     string         // for logs, errors and stats
	Listen   netip.AddrPort // the pod's address
	Protocol Protocol
	Port     uint16         // of the host: flows to resolvers are over sooner
	Target   netip.AddrPort // inside the tunnel; zero: connections are reset
	Finder   Finder         // where it leads instead, found for each connection; nil: to Target
}

func (e Egress) forward() Forward {
	f := Forward{Name: e.Name, Listen: e.Listen, Protocol: e.Protocol, Finder: e.Finder}
	if e.Target.IsValid() {
		f.Targets = []netip.AddrPort{e.Target}
	}
	return f
}

// egressSide answers pods that come in by the pod's address. Unlike on loopback everybody on the network can try: each connection and
// each datagram is let in by the address that it comes from, and what one address may hold is bounded.
type egressSide struct {
	r       *Relay
	conns   *slots.Slots                            // by address: who comes in here is no peer
	allowed atomic.Pointer[map[netip.Addr]struct{}] // nil: nobody
	doors   map[forwardKey]egressDoor               // guarded by the relay's setMu

	mu   sync.Mutex // guards what follows
	live map[*egressConn]struct{}
}

// egressDoor is one bound port. name is of what it leads to: when that changes, what came in for the other must go.
type egressDoor interface {
	listener
	name() string
	recheck()
}

// egressConn is a TCP connection as SetEgress sees it.
type egressConn struct {
	src    netip.Addr
	door   *egressTCP
	name   string
	cancel context.CancelFunc
}

func newEgressSide(r *Relay) *egressSide {
	return &egressSide{r: r, conns: slots.New(0, r.opts.Limits.ConnectionsPerPeer), doors: map[forwardKey]egressDoor{}, live: map[*egressConn]struct{}{}}
}

func (s *egressSide) allows(src netip.Addr) bool {
	allowed := s.allowed.Load()
	if allowed == nil {
		return false
	}
	_, ok := (*allowed)[src]
	return ok
}

// SetEgress makes the given ports the ones that are open, and lets in nobody but clients. Listeners that stay are not touched, and
// new targets apply to new connections; those of clients that are gone, or to a port that leads to another host now, are reset. One that
// cannot be opened does not keep the others from it: the error joins one for each, and calling again tries them again.
func (r *Relay) SetEgress(all []Egress, clients []netip.Addr) error {
	r.setMu.Lock()
	defer r.setMu.Unlock()
	if r.isDraining() {
		return ErrDraining
	}
	s := r.egress
	allowed := make(map[netip.Addr]struct{}, len(clients))
	for _, a := range clients {
		allowed[a.Unmap()] = struct{}{}
	}
	s.allowed.Store(&allowed)
	want, bad := planEgress(all)
	meters := map[meterKey]bool{}
	for _, e := range all {
		meters[e.meterKey()] = true
	}
	for key, d := range s.doors {
		if _, ok := want[key]; !ok {
			d.abort()
			delete(s.doors, key)
		}
	}
	r.pruneMeters(Relayed, meters)
	for key, e := range want {
		if d := s.doors[key]; d != nil {
			d.update(e.forward())
			continue
		}
		d, err := s.open(e)
		if err != nil {
			r.meterFor(e.meterKey()).fail(Bind)
			bad = append(bad, fmt.Errorf("egress %q: %w", e.Name, err))
			continue
		}
		s.doors[key] = d
	}
	for _, d := range s.doors {
		d.recheck()
	}
	return errors.Join(bad...)
}

func (e Egress) meterKey() meterKey { return meterKey{Relayed, e.Name, e.Protocol} }

// planEgress is the pure part of SetEgress: the ports that can be, and what is wrong with the others.
func planEgress(all []Egress) (want map[forwardKey]Egress, bad []error) {
	want = make(map[forwardKey]Egress, len(all))
	for _, e := range all {
		at := e.Listen
		key := forwardKey{e.Protocol, at}
		_, twice := want[key]
		var err error
		switch {
		case !at.IsValid() || at.Port() == 0 || at.Addr().IsUnspecified() || at.Addr().IsMulticast():
			err = fmt.Errorf("listen: %s is not the pod's address and a port", at)
		case e.Protocol != TCP && e.Protocol != UDP:
			err = fmt.Errorf("protocol %q is not TCP or UDP", e.Protocol)
		case e.Target.IsValid() && (e.Target.Port() == 0 || e.Target.Addr().IsUnspecified()):
			err = fmt.Errorf("target %s is not an address and port", e.Target)
		case twice:
			err = fmt.Errorf("listen: %s %s is taken by another", e.Protocol, at)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("egress %q: %w", e.Name, err))
			continue
		}
		want[key] = e
	}
	return want, bad
}

func (s *egressSide) open(e Egress) (egressDoor, error) {
	if e.Protocol == UDP {
		return s.openUDP(e)
	}
	return s.openTCP(e)
}

func (s *egressSide) state(f Forward) *forwardState {
	return &forwardState{Forward: f, meter: s.r.meterFor(meterKey{Relayed, f.Name, f.Protocol})}
}

func (s *egressSide) stop() {
	for _, d := range s.doors {
		d.stop()
	}
}

func (s *egressSide) abort() {
	for key, d := range s.doors {
		d.abort()
		delete(s.doors, key)
	}
}

// egressTCP is a TCP port.
type egressTCP struct {
	*door
	side  *egressSide
	state atomic.Pointer[forwardState]
}

func (s *egressSide) openTCP(e Egress) (egressDoor, error) {
	ln, err := s.r.opts.Ahead.takeTCP(s.r.ctx, e.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e.Listen, err)
	}
	t := &egressTCP{side: s}
	t.state.Store(s.state(e.forward()))
	if t.door, err = s.r.newDoor(ln, func() *meter { return t.state.Load().meter }, t.handle); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *egressTCP) name() string     { return t.state.Load().Name }
func (t *egressTCP) update(f Forward) { t.state.Store(t.side.state(f)) }

func (t *egressTCP) recheck() {
	name := t.name()
	t.side.mu.Lock()
	defer t.side.mu.Unlock()
	for c := range t.side.live {
		if c.door == t && (c.name != name || !t.side.allows(c.src)) {
			c.cancel()
		}
	}
}

func (t *egressTCP) handle(ctx context.Context, c localStream) {
	st, src := t.state.Load(), addrOf(c.RemoteAddr())
	if why := t.carry(ctx, c, st, src); why != None {
		t.side.r.failed(st.meter, why, "from", src) // t.door may not be set yet
		c.Abort()
	}
}

func addrOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// carry returns when the connection has ended, or says why it was none.
func (t *egressTCP) carry(ctx context.Context, c localStream, st *forwardState, src netip.Addr) Reason {
	s := t.side
	if !s.allows(src) {
		return NotAllowed
	}
	if !s.conns.Take(src) {
		return Limit
	}
	defer s.conns.Give(src)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tracked := &egressConn{src: src, door: t, name: st.Name, cancel: cancel}
	s.mu.Lock()
	s.live[tracked] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.live, tracked)
		s.mu.Unlock()
	}()
	if t.name() != st.Name || !s.allows(src) { // it may have changed before the connection was among the live ones
		return NotAllowed
	}
	stream, target, why := s.r.dialForward(ctx, st)
	if why != None {
		return why
	}
	defer s.r.balancer.end(target)
	s.r.carry(ctx, c, stream, nil, st.meter)
	return None
}

// egressUDP is a UDP port.
type egressUDP struct{ *udpForward }

func (s *egressSide) openUDP(e Egress) (egressDoor, error) {
	conn, err := s.r.opts.Ahead.takeUDP(s.r.ctx, e.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e.Listen, err)
	}
	u, err := s.r.newUDP(conn, s.state(e.forward()), e.Port, &udpGate{side: s, flows: slots.New(0, s.r.opts.Limits.FlowsPerPeer)})
	if err != nil {
		return nil, err
	}
	return &egressUDP{u}, nil
}

func (u *egressUDP) name() string { return u.state.Load().Name }

func (u *egressUDP) update(f Forward) {
	if f.Name != u.name() {
		defer u.table.removeIf(func(*flow[netip.AddrPort]) bool { return true })
	}
	u.state.Store(u.gate.side.state(f))
}

func (u *egressUDP) recheck() {
	u.table.removeIf(func(f *flow[netip.AddrPort]) bool { return !u.gate.side.allows(f.key.Addr().Unmap()) })
}

// udpGate says who may use a UDP port. Who has as many flows as one may have loses his least recently used one to a new one.
type udpGate struct {
	side  *egressSide
	flows *slots.Slots
}

// admits says whether a datagram is let in.
func (g *udpGate) admits(from netip.AddrPort) bool {
	return g == nil || g.side.allows(from.Addr().Unmap())
}

// take counts one more flow; the caller gives it back.
func (g *udpGate) take(from netip.AddrPort, t *flowTable[netip.AddrPort]) bool {
	if g == nil {
		return true
	}
	src := from.Addr().Unmap()
	return g.flows.Take(src) || t.evict(func(f *flow[netip.AddrPort]) bool { return f.key.Addr().Unmap() == src }) && g.flows.Take(src)
}

func (g *udpGate) give(from netip.AddrPort) {
	if g != nil {
		g.flows.Give(from.Addr().Unmap())
	}
}
