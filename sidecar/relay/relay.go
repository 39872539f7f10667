package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Protocol is what is carried.
type Protocol string

// The protocols.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// ErrDraining is returned by the setters once Drain or Close was called.
var ErrDraining = errors.New("relay is draining")

// Relay carries connections between loopback and the tunnel. Its methods are safe for concurrent use.
type Relay struct {
	network  datapath.Network
	log      *slog.Logger
	opts     Options
	lender   *lender
	balancer *balancer[netip.AddrPort]
	watcher  watcher

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the relay

	mu       sync.Mutex // guards what follows; held for moments only
	open     int        // TCP connections
	draining bool
	closed   bool
	drained  chan struct{} // made by Drain, closed when open is zero

	setMu    sync.Mutex // serializes the setters
	forwards map[forwardKey]listener
	inbound  *inboundSide
	egress   *egressSide
	proxies  proxySide

	metersMu sync.Mutex
	meters   map[meterKey]*meter
}

// listener is one bound loopback address.
type listener interface {
	update(Forward)
	stop()  // accepts no more; what is open goes on
	abort() // stops and resets what is open
}

// New makes a relay that carries nothing yet.
func New(o Options) *Relay {
	o = o.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{
		network: o.Network, log: o.Logger, opts: o, ctx: ctx, cancel: cancel,
		lender:   newLender(o.Limits.LargeBuffers),
		balancer: newBalancer[netip.AddrPort](o.Limits.FailureHold),
		forwards: map[forwardKey]listener{},
		meters:   map[meterKey]*meter{},
	}
	r.inbound, r.egress = newInboundSide(r), newEgressSide(r)
	return r
}

// enter registers a goroutine; false once the relay is closed. Each true needs one r.wg.Done.
func (r *Relay) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Add(1)
	return true
}

// spawn runs f on a goroutine that Close waits for.
func (r *Relay) spawn(f func()) bool {
	if !r.enter() {
		return false
	}
	go func() {
		defer r.wg.Done()
		f()
	}()
	return true
}

// begin admits one TCP connection; None needs one end.
func (r *Relay) begin() Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.draining:
		return Draining
	case r.open >= r.opts.Limits.Connections:
		return Limit
	}
	r.open++
	return None
}

func (r *Relay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	if r.open == 0 && r.drained != nil {
		close(r.drained)
		r.drained = nil
	}
}

func (r *Relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

func (r *Relay) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// stopAccepting closes the doors: no new connections or flows, the established ones go on.
func (r *Relay) stopAccepting() {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	r.setMu.Lock()
	defer r.setMu.Unlock()
	r.inbound.detach()
	r.proxies.stop()
	for _, l := range r.forwards {
		l.stop()
	}
	r.egress.stop()
}

// Drain stops accepting and waits until every TCP connection has ended or ctx has. UDP flows go on meanwhile; only Close ends
// them, because a datagram flow has no end of its own to wait for.
func (r *Relay) Drain(ctx context.Context) error {
	r.stopAccepting()
	r.mu.Lock()
	if r.open == 0 {
		r.mu.Unlock()
		return nil
	}
	if r.drained == nil {
		r.drained = make(chan struct{})
	}
	drained := r.drained
	r.mu.Unlock()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain with %d connections open: %w", r.connections(), ctx.Err())
	}
}

// Close resets every connection, drops every flow and returns when all goroutines have ended.
func (r *Relay) Close() error {
	r.stopAccepting()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.setMu.Lock()
	for key, l := range r.forwards {
		l.abort()
		delete(r.forwards, key)
	}
	r.egress.abort()
	r.proxies.abort()
	r.inbound.abort()
	r.setMu.Unlock()
	r.wg.Wait()
	return nil
}

// bulkFor is the size of one bulk write to a stream of the tunnel.
func (r *Relay) bulkFor(s net.Conn) int {
	if b, ok := s.(BulkSizer); ok {
		if n := b.ChunkSize(); n > 0 {
			return min(n, largeBuffer)
		}
	}
	to, ok := s.RemoteAddr().(*net.TCPAddr)
	return bulkSize(r.opts.MTU, ok && to.IP.To4() == nil)
}

// carry pipes a local and a tunnel stream until they end, and accounts for it.
func (r *Relay) carry(ctx context.Context, local, tunnel datapath.Stream, early []byte, m *meter) {
	m.open.Add(1)
	m.total.Add(1)
	if why := r.newPipe(local, tunnel, early, m).run(ctx, &r.watcher); why != None {
		m.fail(why)
	}
	m.open.Add(-1)
}
