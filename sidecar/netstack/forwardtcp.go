package netstack

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// tcpRequest is a SYN that nobody has answered. The first of Accept and Refuse answers it.
type tcpRequest struct {
	s             *Stack
	r             *tcp.ForwarderRequest
	local, remote netip.AddrPort
	answered      atomic.Bool
}

var _ datapath.TCPRequest = (*tcpRequest)(nil)

// forwardTCP is called by gVisor for a SYN to one of our addresses, on a goroutine of the request's own.
func (s *Stack) forwardTCP(r *tcp.ForwarderRequest) {
	local, remote := ends(r.ID())
	h := s.handleTCP.Load()
	if h == nil {
		s.refuseTCP(r, remote)
		return
	}
	if !s.tcpSlots.Take(remote.Addr()) {
		// No answer: the peer's TCP asks again, by when there may be room. A reset would tell it that nobody listens.
		s.count.tcpOverLimit.Add(1)
		r.Complete(false)
		return
	}
	q := &tcpRequest{s: s, r: r, local: local, remote: remote}
	(*h)(q)
}

func (q *tcpRequest) Local() netip.AddrPort  { return q.local }
func (q *tcpRequest) Remote() netip.AddrPort { return q.remote }

// Accept completes the handshake and waits for its end.
func (q *tcpRequest) Accept() (datapath.Stream, error) { return q.AcceptContext(context.Background()) }

// AcceptContext gives up when ctx ends: a peer that is gone answers nothing, and the stack would ask it for a minute.
func (q *tcpRequest) AcceptContext(ctx context.Context) (datapath.Stream, error) {
	if q.answered.Swap(true) {
		return nil, opError("accept", "tcp", nil, nil, errAnswered)
	}
	defer q.s.tcpSlots.Give(q.remote.Addr())
	wq := new(waiter.Queue)
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { wake(wq, over) })
	ep, err := q.r.CreateEndpoint(wq)
	stop()
	close(over)
	q.r.Complete(err != nil)
	if err != nil {
		return nil, opError("accept", "tcp", nil, nil, fromTCPIP(err))
	}
	return q.s.newStream(ep, wq, q.local, q.remote), nil
}

// wake has whoever waits for a handshake look whether there is a connection, until it is over: nobody may wait yet.
func wake(wq *waiter.Queue, over <-chan struct{}) {
	for {
		wq.Notify(waiter.WritableEvents)
		select {
		case <-over:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Refuse answers RST, or nothing where an address has had too many of them.
func (q *tcpRequest) Refuse() {
	if q.answered.Swap(true) {
		return
	}
	q.s.refuseTCP(q.r, q.remote)
	q.s.tcpSlots.Give(q.remote.Addr())
}

func (s *Stack) refuseTCP(r *tcp.ForwarderRequest, remote netip.AddrPort) {
	s.count.refusedTCP.Add(1)
	r.Complete(s.resets.admits(remote.Addr(), time.Now()))
}

// ends returns both ends of what a peer began, ours first.
func ends(id stack.TransportEndpointID) (local, remote netip.AddrPort) {
	return netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort),
		netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort)
}
