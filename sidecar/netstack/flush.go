package netstack

import (
	"context"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Flush waits until peers have acknowledged all that was written to connections whose direction is closed by now; see datapath.Datapath.
func (s *Stack) Flush(ctx context.Context) error { return datapath.WaitHeard(ctx, s.unheard) }

// unheard is how many connections there are whose end the peer has not acknowledged.
func (s *Stack) unheard() (n int, err error) {
	if s.closed() {
		return 0, net.ErrClosed
	}
	for _, e := range s.ip.RegisteredEndpoints() {
		if awaitsAck(e) {
			n++
		}
	}
	return n, nil
}

// awaitsAck says whether our direction is closed and the peer has not acknowledged all of it.
func awaitsAck(e stack.TransportEndpoint) bool {
	t, ok := e.(*tcp.Endpoint)
	if !ok {
		return false
	}
	switch t.EndpointState() {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

// AbortAll resets every connection, so that peers learn of it; one that is closed and has more to send gets half of the time for that. The resets
// have left through the engine when it returns, or the given time has passed; what is lost on the way peers notice by keepalive.
func (s *Stack) AbortAll(wait time.Duration) {
	s.HandleTCP(nil)
	s.HandleUDP(nil)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	aborted := make(chan struct{})
	go func() {
		defer close(aborted)
		s.abort(func(e stack.TransportEndpoint) bool { return !awaitsAck(e) })
		last, cancel := context.WithTimeout(ctx, wait/2)
		defer cancel()
		_ = s.Flush(last)
		s.abort(func(stack.TransportEndpoint) bool { return true })
	}()
	select {
	case <-aborted:
	case <-ctx.Done():
	}
}

func (s *Stack) abort(which func(stack.TransportEndpoint) bool) {
	for _, e := range s.ip.RegisteredEndpoints() {
		if which(e) {
			e.Abort()
		}
	}
}
