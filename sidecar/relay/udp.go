package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// udpForward serves one UDP Forward: each client address has a flow with one target, chosen when it starts and again when that
// target leaves the set or refuses.
type udpForward struct {
	r      *Relay
	conn   *net.UDPConn
	ctx    context.Context
	cancel context.CancelFunc
	state  atomic.Pointer[forwardState]
	table  *flowTable[netip.AddrPort]
	gate   *udpGate // nil: loopback, everybody may
	follower
	waiting waiting
}

func (r *Relay) openUDPForward(f Forward) (listener, error) {
	conn, err := listenUDP(r.ctx, f.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", f.Listen, err)
	}
	return r.newUDP(conn, r.forwardState(f), f.Listen.Port(), nil)
}

// newUDP serves a socket, which is its own from then on. port is that of the host behind it.
func (r *Relay) newUDP(conn *net.UDPConn, st *forwardState, port uint16, gate *udpGate) (*udpForward, error) {
	u := &udpForward{r: r, conn: conn, table: newFlowTable[netip.AddrPort](r.opts.Limits.idleFor(port), r.opts.Limits.Flows), gate: gate}
	u.ctx, u.cancel = r.context()
	u.state.Store(st)
	if !r.spawn(u.serve) {
		u.abort()
		return nil, ErrDraining
	}
	return u, nil
}

func (u *udpForward) update(f Forward) { u.state.Store(u.r.forwardState(f)) }

// stop leaves the socket open, because the flows answer through it; new flows are refused while draining.
func (u *udpForward) stop() {}

func (u *udpForward) abort() {
	u.cancel()
	_ = u.conn.Close()
	u.table.close()
}

func (u *udpForward) serve() {
	in, err := newPacketReader(u.conn, u.r.lender)
	if err != nil {
		return
	}
	for {
		data, from, err := in.next()
		switch {
		case err == nil:
			u.packet(from, data)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			u.state.Load().meter.fail(Dropped)
			if !sleep(u.ctx, 5*time.Millisecond) {
				return
			}
		}
		in.release()
	}
}

// packet sends one datagram on its way, or keeps it until its host is found.
func (u *udpForward) packet(from netip.AddrPort, data []byte) {
	st := u.state.Load()
	if !u.gate.admits(from) {
		u.r.failed(st.meter, NotAllowed, "from", from.Addr())
		return
	}
	targets := st.Targets
	if st.Finder != nil && u.table.get(from) == nil {
		var known bool
		if targets, known = st.Finder.Known(); !known {
			u.await(from, st, data)
			return
		}
	}
	u.send(from, data, st, targets)
}

// send passes a datagram on, of a new flow to one of the targets. A target that refused is replaced once: the answer to an earlier
// datagram says nothing about this one.
func (u *udpForward) send(from netip.AddrPort, data []byte, st *forwardState, targets []netip.AddrPort) {
	for range 2 {
		f := u.table.get(from)
		if f != nil && !u.leadsTo(st, f) {
			u.table.remove(f)
			f = nil
		}
		if f == nil {
			if st.Finder != nil && len(targets) == 0 {
				targets, _ = st.Finder.Known() // it had a flow until now
			}
			var why Reason
			if f, why = u.start(from, st, targets); why != None {
				u.r.failed(st.meter, why, "targets", len(targets))
				return
			}
		}
		_, err := f.conn.Write(data)
		if err == nil {
			st.meter.up.Add(uint64(len(data)))
			return
		}
		if !flowBroken(err) {
			break // no room, too long: this datagram's trouble and not the flow's
		}
		u.r.balancer.mark(f.target, !errors.Is(err, syscall.ECONNREFUSED), time.Now())
		u.table.remove(f)
	}
	st.meter.fail(Dropped)
}

func (u *udpForward) leadsTo(st *forwardState, f *flow[netip.AddrPort]) bool {
	if st.Finder != nil {
		return f.name == st.Name && u.stays(u.ctx, u.r, st.Finder, f.target)
	}
	return slices.Contains(st.Targets, f.target)
}

func (u *udpForward) start(from netip.AddrPort, st *forwardState, targets []netip.AddrPort) (*flow[netip.AddrPort], Reason) {
	if u.r.isDraining() {
		return nil, Draining
	}
	if st.Finder != nil && len(targets) == 0 {
		return nil, NameNotFound
	}
	if !u.gate.take(from, u.table) {
		return nil, Limit
	}
	if st.Finder != nil {
		targets = u.r.balancer.asGiven(targets, time.Now())
	} else {
		targets = u.r.balancer.order(targets, time.Now())
	}
	conn, target, why := u.r.dialUDP(u.ctx, targets)
	if why != None {
		u.gate.give(from)
		return nil, why
	}
	m := st.meter
	f := &flow[netip.AddrPort]{key: from, conn: conn, target: target, name: st.Name}
	f.onEnd = func() {
		m.flows.Add(-1)
		u.gate.give(from)
		u.r.balancer.end(target)
	}
	m.flows.Add(1)
	m.flowTotal.Add(1)
	evicted, ok := u.table.put(f)
	if !ok {
		_ = conn.Close()
		f.onEnd()
		return nil, Aborted
	}
	if evicted {
		m.fail(Evicted)
	}
	if !u.gate.admits(from) { // it may have changed before the flow was in the table
		u.table.remove(f)
		return nil, NotAllowed
	}
	if !u.r.spawn(func() { u.answer(f, m) }) {
		u.table.remove(f)
		return nil, Aborted
	}
	return f, None
}

// answer carries the target's datagrams back to the client until the flow ends.
func (u *udpForward) answer(f *flow[netip.AddrPort], m *meter) {
	in := newReader(f.conn, u.r.lender, largeBuffer, true)
	defer in.release()
	defer u.table.remove(f)
	for {
		data, err := in.next()
		if err != nil {
			if errors.Is(err, syscall.ECONNREFUSED) {
				u.r.balancer.mark(f.target, false, time.Now())
				m.fail(Refused)
			}
			return
		}
		if _, err := u.conn.WriteToUDPAddrPort(data, f.key); err != nil {
			m.fail(Dropped)
		} else {
			m.down.Add(uint64(len(data)))
		}
		u.table.touch(f)
		in.release()
	}
}

// dialUDP makes a socket to the first of the targets that has a route; nothing is sent. On None the caller calls r.balancer.end(target) in the end.
func (r *Relay) dialUDP(ctx context.Context, targets []netip.AddrPort) (net.Conn, netip.AddrPort, Reason) {
	return dialAnyUDP(ctx, r, r.balancer, targets, r.network.DialUDP)
}

// dialAnyUDP does so with any balancer, and what dials for it.
func dialAnyUDP[T comparable](ctx context.Context, r *Relay, b *balancer[T], targets []T, dial func(context.Context, T) (net.Conn, error)) (
	conn net.Conn, target T, why Reason) {
	why = NoTargets
	ctx, cancel := context.WithTimeout(ctx, r.opts.Limits.DialTimeout)
	defer cancel()
	for _, t := range targets {
		conn, err := dial(ctx, t)
		if err == nil {
			b.begin(t)
			return conn, t, None
		}
		b.mark(t, false, time.Now())
		why = dialReason(ctx, err)
	}
	return nil, target, why
}

// flowBroken tells an error that the socket will not recover from, or that speaks of the target, from one of the datagram.
func flowBroken(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// packetReader reads an unconnected UDP socket and holds a buffer only while there is a datagram in it. After next, the bytes
// are valid until release.
type packetReader struct {
	raw    syscall.RawConn
	lender *lender
	buf    *[]byte
	n      int
	from   unix.Sockaddr
	err    error
	try    func(uintptr) bool
}

func newPacketReader(c *net.UDPConn, l *lender) (*packetReader, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &packetReader{raw: raw, lender: l}
	p.try = p.tryRaw
	return p, nil
}

func (p *packetReader) next() ([]byte, netip.AddrPort, error) {
	err := p.raw.Read(p.try)
	if err == nil {
		err = p.err
	}
	if err != nil {
		p.release()
		return nil, netip.AddrPort{}, err
	}
	var from netip.AddrPort
	switch a := p.from.(type) {
	case *unix.SockaddrInet4:
		from = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		from = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	default:
		p.release()
		return nil, netip.AddrPort{}, syscall.EAFNOSUPPORT
	}
	return (*p.buf)[:p.n], from, nil
}

func (p *packetReader) tryRaw(fd uintptr) bool {
	p.release()
	p.buf = p.lender.takeAny()
	for {
		p.n, p.from, p.err = unix.Recvfrom(int(fd), *p.buf, 0)
		if !errors.Is(p.err, unix.EINTR) {
			break
		}
	}
	if errors.Is(p.err, unix.EAGAIN) {
		p.release()
		return false
	}
	return true
}

func (p *packetReader) release() {
	if p.buf != nil {
		p.lender.give(p.buf)
		p.buf = nil
	}
}
