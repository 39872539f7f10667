package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// association is one UDP ASSOCIATE: a socket for the client, and a flow for each destination it names. It lives as long as
// the TCP connection that asked for it.
type association struct {
	r      *Relay
	ctx    context.Context
	conn   *net.UDPConn
	meter  *meter
	client netip.AddrPort // whom datagrams are taken from; port 0: not known yet
	table  *flowTable[string]
	follower
	mu sync.Mutex // guards client
}

// parseSOCKSDatagram splits a client's datagram. Fragments are not supported, as RFC 1928 allows.
func parseSOCKSDatagram(b []byte) (d destination, payload []byte, err error) {
	if len(b) < 3 || b[0] != 0 || b[1] != 0 {
		return d, nil, errDestination
	}
	if b[2] != 0 {
		return d, nil, errors.New("fragment")
	}
	rest := bytes.NewReader(b[3:])
	if d, err = readSOCKSAddress(rest); err != nil {
		return d, nil, err
	}
	if d.port == 0 {
		return d, nil, errDestination
	}
	return d, b[len(b)-rest.Len():], nil
}

// socksAssociate serves a UDP ASSOCIATE until its TCP connection ends, which it owns.
func (r *Relay) socksAssociate(ctx context.Context, c localStream, d destination) {
	m := r.meterFor(meterKey{Proxied, "socks5", UDP})
	at := netip.AddrPortFrom(addrPortOf(c.LocalAddr()).Addr().Unmap(), 0)
	conn, err := listenUDP(ctx, at)
	if err != nil {
		_ = writeSOCKSReply(c, socksFailure, netip.AddrPort{})
		r.failed(m, Bind, "error", err)
		closeAfterReply(c)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	l := r.opts.Limits
	a := &association{r: r, ctx: ctx, conn: conn, meter: m, table: newFlowTable[string](l.UDPIdle, min(l.Flows, 256))}
	// The client may send from any port of its own address, and from no other address.
	a.client = netip.AddrPortFrom(addrPortOf(c.RemoteAddr()).Addr().Unmap(), d.port)
	served := make(chan struct{})
	go func() {
		defer close(served)
		a.serve()
	}()
	stop := context.AfterFunc(ctx, c.Abort)
	if writeSOCKSReply(c, socksOK, addrPortOf(conn.LocalAddr())) == nil {
		_, _ = io.Copy(io.Discard, c.TCPConn) // the end of this connection is the end of the association
	}
	stop()
	cancel()
	_ = conn.Close()
	a.table.close()
	<-served
	_ = c.Close()
}

func (a *association) serve() {
	in, err := newPacketReader(a.conn, a.r.lender)
	if err != nil {
		return
	}
	for {
		data, from, err := in.next()
		if err != nil {
			return
		}
		if a.fromClient(from) {
			a.packet(data)
		} else {
			a.meter.fail(NotAllowed)
		}
		in.release()
	}
}

// fromClient learns the client's port from its first datagram if it did not announce one.
func (a *association) fromClient(from netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client.Port() == 0 && a.client.Addr() == from.Addr() {
		a.client = from
	}
	return a.client == from
}

func (a *association) packet(b []byte) {
	d, payload, err := parseSOCKSDatagram(b)
	if err != nil {
		a.meter.fail(Malformed)
		return
	}
	rules := a.r.proxies.rules.Load()
	to, why := rules.targets(d)
	finder := rules.finder(d, why)
	if why != None && finder == nil {
		a.meter.fail(why)
		return
	}
	key := d.String()
	f := a.table.get(key)
	if f != nil && (finder == nil && !slices.Contains(to, f.target) || finder != nil && !a.stays(a.ctx, a.r, finder, f.target)) {
		a.table.remove(f)
		f = nil
	}
	if f == nil {
		if f, why = a.start(key, to, finder); why != None {
			a.r.failed(a.meter, why, "to", d.String())
			return
		}
	}
	if _, err := f.conn.Write(payload); err != nil {
		a.meter.fail(Dropped)
		if flowBroken(err) {
			a.table.remove(f)
		}
		return
	}
	a.meter.up.Add(uint64(len(payload)))
}

// start waits for a host to be found: its other destinations wait along, but nobody else's.
func (a *association) start(key string, to []netip.AddrPort, finder Finder) (*flow[string], Reason) {
	if finder != nil {
		var why Reason
		if to, why = a.r.find(a.ctx, finder); why != None {
			return nil, why
		}
		to = a.r.balancer.asGiven(to, time.Now())
	} else {
		to = a.r.balancer.order(to, time.Now())
	}
	conn, target, why := a.r.dialUDP(a.ctx, to)
	if why != None {
		return nil, why
	}
	f := &flow[string]{key: key, conn: conn, target: target}
	f.onEnd = func() {
		a.meter.flows.Add(-1)
		a.r.balancer.end(target)
	}
	a.meter.flows.Add(1)
	a.meter.flowTotal.Add(1)
	evicted, ok := a.table.put(f)
	if !ok {
		_ = conn.Close()
		f.onEnd()
		return nil, Aborted
	}
	if evicted {
		a.meter.fail(Evicted)
	}
	if !a.r.spawn(func() { a.answer(f) }) {
		a.table.remove(f)
		return nil, Aborted
	}
	return f, None
}

// answer carries one destination's datagrams back, each with the header that says where it is from.
func (a *association) answer(f *flow[string]) {
	in := newReader(f.conn, a.r.lender, largeBuffer, true)
	defer in.release()
	defer a.table.remove(f)
	head := appendSOCKSAddress([]byte{0, 0, 0}, f.target)
	for {
		data, err := in.next()
		if err != nil {
			return
		}
		a.send(head, data)
		a.table.touch(f)
		in.release()
	}
}

func (a *association) send(head, data []byte) {
	a.mu.Lock()
	client := a.client
	a.mu.Unlock()
	out := a.r.lender.takeAny()
	defer a.r.lender.give(out)
	if len(head)+len(data) > len(*out) {
		a.meter.fail(Dropped)
		return
	}
	n := copy(*out, head)
	n += copy((*out)[n:], data)
	if _, err := a.conn.WriteToUDPAddrPort((*out)[:n], client); err != nil {
		a.meter.fail(Dropped)
		return
	}
	a.meter.down.Add(uint64(len(data)))
}
