package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// How long a prober waits. A handshake whose first message is lost is begun again after five seconds, so the first answer may take that
// long; afterwards, a round trip.
const (
	firstAnswer = 7 * time.Second
	askAgain    = 1500 * time.Millisecond
	laterAnswer = time.Second
	dialTime    = 3 * time.Second
)

// smallEcho is the size of the first request in bytes: it gets through wherever anything does.
const smallEcho = 100

// stepSizes are what is tried between the smallest request and the MTU: where paths are known to end, less what WireGuard adds.
var stepSizes = []int{576, 1000, 1200, 1280, 1320, 1340, 1360, 1380, 1400, 1412, 1420, 1440, 4000, 8000}

// prober tries ways. Its methods may be called concurrently.
type prober struct {
	ctx    context.Context
	device datapath.Datapath
	mtu    int
}

// count reads what the device has of a target's peer.
func (p *prober) count(t *wire.DiagnosedTarget, into *wire.PeerCounters) {
	peers, err := p.device.Peers()
	if err != nil {
		return
	}
	for _, s := range peers {
		if s.PublicKey == t.PublicKey {
			t.Endpoint, t.PathMTU, t.MTUState = s.Endpoint, s.PathMTU, s.MTUState
			*into = wire.PeerCounters{LastHandshake: s.LastHandshake.UTC(), RxBytes: s.RxBytes, TxBytes: s.TxBytes}
		}
	}
}

// echoes asks for a small echo until one is answered and then, twice at most, for larger ones up to the MTU.
func (p *prober) echoes(to netip.Addr) []wire.Echo {
	e, ok := p.device.(datapath.Echoer)
	if !ok {
		return []wire.Echo{{Bytes: smallEcho, Why: "the datapath cannot ask for echoes"}}
	}
	first := wire.Echo{Bytes: smallEcho}
	for end := time.Now().Add(firstAnswer); !first.Answered && first.Why == "" && time.Now().Before(end) && p.ctx.Err() == nil; {
		first = p.echo(e, to, smallEcho, askAgain)
	}
	if !first.Answered {
		return []wire.Echo{first}
	}
	sizes := slices.DeleteFunc(slices.Clone(stepSizes), func(n int) bool { return n >= p.mtu })
	all := p.sizes(e, to, append(sizes, p.mtu))
	return append([]wire.Echo{first}, all...)
}

func (p *prober) sizes(e datapath.Echoer, to netip.Addr, sizes []int) []wire.Echo {
	out := make([]wire.Echo, len(sizes))
	var all sync.WaitGroup
	for i, n := range sizes {
		all.Go(func() {
			for range 2 { // one may be lost for other reasons
				if out[i] = p.echo(e, to, n, laterAnswer); out[i].Answered || out[i].Why != "" {
					return
				}
			}
		})
	}
	all.Wait()
	return out
}

func (p *prober) echo(e datapath.Echoer, to netip.Addr, size int, wait time.Duration) wire.Echo {
	ctx, cancel := context.WithTimeout(p.ctx, wait)
	defer cancel()
	start := time.Now()
	err := e.Echo(ctx, to, size)
	out := wire.Echo{Bytes: size, Answered: err == nil}
	switch {
	case err == nil:
		out.Micros = max(time.Since(start).Microseconds(), 1)
	case ctx.Err() == nil:
		out.Why = truncate(err.Error(), 512)
	}
	return out
}

// dial connects once, and closes again.
func (p *prober) dial(to netip.AddrPort) *wire.Dial {
	ctx, cancel := context.WithTimeout(p.ctx, dialTime)
	defer cancel()
	start := time.Now()
	c, err := p.device.DialTCP(ctx, to)
	if err == nil {
		_ = c.Close()
		return &wire.Dial{OK: true, Micros: max(time.Since(start).Microseconds(), 1)}
	}
	d := &wire.Dial{Reason: "Unreachable", Why: truncate(err.Error(), 512)}
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		d.Reason = "Refused"
	case ctx.Err() != nil, errors.As(err, &ne) && ne.Timeout():
		d.Reason = "Timeout"
	}
	return d
}
