package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// balancer remembers, for every target in use, how many connections it has and whether it failed a moment ago. One is shared by
// all forwards and proxies, so what one learns of a dead target spares the others the wait; another by what is published.
type balancer[T comparable] struct {
	hold time.Duration
	mu   sync.Mutex
	m    map[T]*targetState
}

type targetState struct {
	open   int
	failed time.Time // until then it is tried last
}

const maxRemembered = 4096 // states of targets without connections; a proxy can name any number

func newBalancer[T comparable](hold time.Duration) *balancer[T] {
	return &balancer[T]{hold: hold, m: map[T]*targetState{}}
}

// order returns the targets in the order to try them: of two random healthy ones the less loaded first, then the other healthy
// ones, then those that failed lately, the longest ago first. It does not change targets.
func (b *balancer[T]) order(targets []T, now time.Time) []T {
	if len(targets) < 2 {
		return targets
	}
	out := make([]T, len(targets))
	for i, j := range rand.Perm(len(targets)) {
		out[i] = targets[j]
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	healthy := 0
	for i, t := range out {
		if s := b.m[t]; s == nil || !now.Before(s.failed) {
			out[i], out[healthy] = out[healthy], t
			healthy++
		}
	}
	if healthy >= 2 && b.openTo(out[1]) < b.openTo(out[0]) {
		out[0], out[1] = out[1], out[0]
	}
	b.sortSick(out[healthy:])
	return out
}

// sortSick puts the longest ago first.
func (b *balancer[T]) sortSick(sick []T) {
	for i := 1; i < len(sick); i++ { // a handful at most: insertion sort
		for j := i; j > 0 && b.m[sick[j]].failed.Before(b.m[sick[j-1]].failed); j-- {
			sick[j], sick[j-1] = sick[j-1], sick[j]
		}
	}
}

// asGiven returns the targets in their own order, but for those that failed lately, which come last. It does not change targets.
func (b *balancer[T]) asGiven(targets []T, now time.Time) []T {
	if len(targets) < 2 {
		return targets
	}
	out, sick := make([]T, 0, len(targets)), []T(nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range targets {
		if s := b.m[t]; s == nil || !now.Before(s.failed) {
			out = append(out, t)
		} else {
			sick = append(sick, t)
		}
	}
	b.sortSick(sick)
	return append(out, sick...)
}

func (b *balancer[T]) openTo(t T) int {
	if s := b.m[t]; s != nil {
		return s.open
	}
	return 0
}

// begin counts a connection to t, from the first SYN on so that a burst spreads too.
func (b *balancer[T]) begin(t T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state(t).open++
}

// end undoes begin.
func (b *balancer[T]) end(t T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state(t)
	if s.open--; s.open <= 0 && s.failed.IsZero() {
		delete(b.m, t)
	}
}

// mark records how an attempt went.
func (b *balancer[T]) mark(t T, ok bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !ok {
		b.state(t).failed = now.Add(b.hold)
		return
	}
	if s := b.m[t]; s != nil {
		s.failed = time.Time{}
	}
}

func (b *balancer[T]) state(t T) *targetState {
	s := b.m[t]
	if s == nil {
		if len(b.m) >= maxRemembered {
			b.forget()
		}
		s = &targetState{}
		b.m[t] = s
	}
	return s
}

// forget drops what has no connections. Forgetting a failure costs one attempt at worst.
func (b *balancer[T]) forget() {
	for t, s := range b.m {
		if s.open <= 0 {
			delete(b.m, t)
		}
	}
}

// dial connects to one of the targets. On None the caller owns the stream and calls r.balancer.end(target) when it has ended.
func (r *Relay) dial(ctx context.Context, targets []netip.AddrPort) (datapath.Stream, netip.AddrPort, Reason) {
	return r.dialOrdered(ctx, r.balancer.order(targets, time.Now()))
}

// dialOrdered does so in the order of targets.
func (r *Relay) dialOrdered(ctx context.Context, targets []netip.AddrPort) (datapath.Stream, netip.AddrPort, Reason) {
	return dialAny(ctx, r, r.balancer, targets, r.network.DialTCP)
}

// dialAny does so with any balancer, and what dials for it.
func dialAny[T comparable](ctx context.Context, r *Relay, b *balancer[T], targets []T, dial func(context.Context, T) (datapath.Stream, error)) (
	stream datapath.Stream, target T, why Reason) {
	var none T
	if len(targets) == 0 {
		return nil, none, NoTargets
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Limits.DialBudget)
	defer cancel()
	why = Unreachable
	for _, t := range targets {
		b.begin(t)
		s, err := dialOne(ctx, r, t, dial)
		if err == nil {
			b.mark(t, true, time.Now())
			return s, t, None
		}
		b.end(t)
		if ctx.Err() != nil {
			break
		}
		b.mark(t, false, time.Now())
		why = dialReason(ctx, err)
		r.log.Debug("dial target", "target", t, "reason", why.String(), "error", err)
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil, none, Timeout
	}
	if ctx.Err() != nil {
		return nil, none, Aborted
	}
	return nil, none, why
}

func dialOne[T any](ctx context.Context, r *Relay, t T, dial func(context.Context, T) (datapath.Stream, error)) (datapath.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Limits.DialTimeout)
	defer cancel()
	return dial(ctx, t)
}
