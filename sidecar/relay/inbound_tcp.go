package relay

import (
	"context"
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// inboundCall is a connection that a peer asks for, and what it holds until its end.
type inboundCall struct {
	in            *inboundSide
	src           netip.Addr
	port          *inboundPort
	begun         bool         // counts as a connection
	slot          bool         // of its peer's
	conn          *inboundConn // nil: policy does not know it
	ended         func()       // nil: nothing was dialled
	local, tunnel datapath.Stream
	ctx           context.Context
}

// handleTCP answers one connection: what is behind the port is dialled first, so that one nobody listens on looks to the peer
// exactly like that. It is carried by a goroutine of its own, because this one's stack has grown with what it took to open it.
func (in *inboundSide) handleTCP(req datapath.TCPRequest) {
	if !in.r.enter() {
		req.Refuse()
		return
	}
	c := &inboundCall{in: in, src: req.Remote().Addr().Unmap()}
	if why := c.open(req); why != None {
		in.refused(c.port, why, c.src)
		c.end()
		return
	}
	go func() {
		defer c.end()
		in.r.carry(c.ctx, c.local, c.tunnel, nil, c.port.meter)
	}()
}

// open answers the peer.
func (c *inboundCall) open(req datapath.TCPRequest) Reason {
	why := c.reach(unmapped(req.Local()))
	if why != None {
		req.Refuse()
		return why
	}
	var err error
	if c.tunnel, err = accept(c.ctx, req); err != nil {
		c.local.Abort()
		return ResetByTunnel
	}
	return None
}

// reach connects to what is behind the port, if the peer may have that.
func (c *inboundCall) reach(at netip.AddrPort) (why Reason) {
	if c.port, why = c.in.admit(c.src, at, TCP); why != None {
		return why
	}
	if why = c.in.r.begin(); why != None {
		return why
	}
	c.begun = true
	if c.slot = c.in.conns.Take(c.src); !c.slot {
		return Limit
	}
	if c.conn, c.ctx = c.in.track(c.src, at.Addr(), c.port); c.conn == nil {
		return Aborted
	}
	local, ended, why := c.in.dial(c.ctx, c.src, c.port)
	if why == None {
		c.local, c.ended = local, ended
	}
	return why
}

// end gives back what the connection holds, last first.
func (c *inboundCall) end() {
	if c.ended != nil {
		c.ended()
	}
	if c.conn != nil {
		c.in.untrack(c.conn)
	}
	if c.slot {
		c.in.conns.Give(c.src)
	}
	if c.begun {
		c.in.r.end()
	}
	c.in.r.wg.Done()
}

// accept ends with ctx where it has to wait for the peer.
func accept(ctx context.Context, req datapath.TCPRequest) (datapath.Stream, error) {
	if a, ok := req.(datapath.ContextAccepter); ok {
		return a.AcceptContext(ctx)
	}
	return req.Accept()
}
