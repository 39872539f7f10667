package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// inboundFlow is a flow's identity: the peer's end and ours.
type inboundFlow struct{ remote, local netip.AddrPort }

// refuseHold is how long new flows to a local port that answered "unreachable" are refused outright. Only then can the peer
// be told: once a flow is accepted there is no way to say no.
const refuseHold = time.Second

// silence remembers local ports that nobody listens on.
type silence struct {
	mu    sync.Mutex
	until map[uint16]time.Time // bounded by the ports that are listed
}

func (s *silence) mark(port uint16, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = map[uint16]time.Time{}
	}
	s.until[port] = now.Add(refuseHold)
}

func (s *silence) has(port uint16, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, ok := s.until[port]
	if ok && !now.Before(until) {
		delete(s.until, port)
		ok = false
	}
	return ok
}

// handleUDP answers the first datagram of a flow.
func (in *inboundSide) handleUDP(req datapath.UDPRequest) {
	if !in.r.enter() {
		req.Refuse()
		return
	}
	defer in.r.wg.Done()
	src, at := req.Remote().Addr().Unmap(), unmapped(req.Local())
	p, why := in.admit(src, at, UDP)
	switch {
	case why != None:
	case in.r.isDraining():
		why = Draining
	case p.service == "" && in.silent.has(at.Port(), time.Now()):
		why = Refused
	case !in.takeFlow(src, at.Port(), p.meter):
		why = Limit
	}
	if why != None {
		in.refused(p, why, src)
		req.Refuse()
		return
	}
	f, why := in.dialFlow(p)
	if why != None {
		in.slotsFor(at.Port()).Give(src)
		req.Refuse()
		in.refused(p, why, src)
		return
	}
	ended := f.onEnd
	f.onEnd = func() {
		in.slotsFor(at.Port()).Give(src)
		ended()
	}
	tunnel, err := req.Accept()
	if err != nil {
		_ = f.conn.Close()
		f.onEnd()
		in.refused(p, ResetByTunnel, src)
		return
	}
	f.key = inboundFlow{req.Remote(), at}
	in.runFlow(p, src, f, tunnel)
}

// dialFlow makes a socket to what is behind a port; nothing is sent.
func (in *inboundSide) dialFlow(p *inboundPort) (*flow[inboundFlow], Reason) {
	if p.service != "" {
		conn, t, why := dialAnyUDP(p.ctx, in.r, in.balancer, in.balancer.order(p.targets, time.Now()), in.dialTargetUDP)
		return &flow[inboundFlow]{conn: conn, target: t.AddrPort, served: t, onEnd: func() { in.balancer.end(t) }}, why
	}
	conn, err := dialLocalUDP(p.ctx, p.to)
	return &flow[inboundFlow]{conn: conn, target: p.to, onEnd: func() {}}, dialReason(p.ctx, err)
}

// runFlow owns both sockets, one of which the flow comes with, and returns when the flow has ended.
func (in *inboundSide) runFlow(p *inboundPort, src netip.Addr, f *flow[inboundFlow], tunnel net.Conn) {
	m, table := p.meter, in.tableFor(f.key.local.Port())
	local, over := f.conn, f.onEnd
	f.conn = bothConns{tunnel, local}
	f.onEnd = func() {
		m.flows.Add(-1)
		over()
	}
	m.flows.Add(1)
	m.flowTotal.Add(1)
	evicted, ok := table.put(f)
	if !ok {
		_ = f.conn.Close()
		f.onEnd()
		return
	}
	if evicted {
		m.fail(Evicted)
	}
	stop := context.AfterFunc(p.ctx, func() { table.remove(f) })
	defer stop()
	if !in.allowed(src, f.key.local.Addr(), p.key) || in.left(f) { // that may have changed before the flow was in the table
		table.remove(f)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer table.remove(f)
		in.copyPackets(f, tunnel, local, m.up.Add, m)
	}()
	in.copyPackets(f, local, tunnel, m.down.Add, m)
	table.remove(f)
	<-ended
}

// copyPackets moves datagrams from src to dst until src ends.
func (in *inboundSide) copyPackets(f *flow[inboundFlow], dst, src net.Conn, count func(uint64) uint64, m *meter) {
	rd := newReader(src, in.r.lender, largeBuffer, true)
	defer rd.release()
	table := in.tableFor(f.key.local.Port())
	for {
		data, err := rd.next()
		if err == nil {
			if _, err = dst.Write(data); err == nil {
				count(uint64(len(data)))
			} else {
				m.fail(Dropped)
			}
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		rd.release()
		if errors.Is(err, syscall.ECONNREFUSED) { // the kernel tells whoever calls next, reader or writer
			if f.served.IsValid() {
				in.balancer.mark(f.served, false, time.Now())
			} else {
				in.silent.mark(f.key.local.Port(), time.Now())
			}
			return
		}
		table.touch(f)
	}
}

func (in *inboundSide) tableFor(port uint16) *flowTable[inboundFlow] {
	if port == 53 {
		return in.dnsTable
	}
	return in.table
}

// recheckFlows ends the flows that policy no longer allows, and those to targets that are behind their port no more: their next datagram
// finds another.
func (in *inboundSide) recheckFlows() {
	gone := func(f *flow[inboundFlow]) bool {
		return !in.allowed(f.key.remote.Addr().Unmap(), f.key.local.Addr(), inboundKey{proto: UDP, port: f.key.local.Port()}) || in.left(f)
	}
	in.table.removeIf(gone)
	in.dnsTable.removeIf(gone)
}

// bothConns is a flow's two sockets, closed as one.
type bothConns struct {
	net.Conn
	local net.Conn
}

func (b bothConns) Close() error { return errors.Join(b.Conn.Close(), b.local.Close()) }
