package relay

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Finder finds where a host is that is known by name alone. It keeps what it finds for a while, and is safe for concurrent use.
type Finder interface {
	// Find returns at least one target, in the order to try them. It waits for an answer as long as ctx lets it.
	Find(ctx context.Context) ([]netip.AddrPort, error)
	// Known is what Find would say at once, no target where there is none; false: it would have to ask.
	Known() ([]netip.AddrPort, bool)
}

// find asks for the targets of a host, for as long as a connection may take to be made.
func (r *Relay) find(ctx context.Context, f Finder) ([]netip.AddrPort, Reason) {
	limited, cancel := context.WithTimeout(ctx, r.opts.Limits.DialBudget)
	defer cancel()
	targets, err := f.Find(limited)
	switch {
	case err == nil && len(targets) > 0:
		return targets, None
	case ctx.Err() != nil:
		return nil, Aborted
	case limited.Err() != nil:
		return nil, Timeout
	}
	r.log.Debug("find host", "error", err)
	return nil, NameNotFound
}

// dialFound finds a host and connects to the first of its targets that answers; else as dial.
func (r *Relay) dialFound(ctx context.Context, f Finder) (datapath.Stream, netip.AddrPort, Reason) {
	targets, why := r.find(ctx, f)
	if why != None {
		return nil, netip.AddrPort{}, why
	}
	return r.dialOrdered(ctx, r.balancer.asGiven(targets, time.Now()))
}

// dialForward connects to where a forward leads; else as dial.
func (r *Relay) dialForward(ctx context.Context, st *forwardState) (datapath.Stream, netip.AddrPort, Reason) {
	if st.Finder != nil {
		return r.dialFound(ctx, st.Finder)
	}
	return r.dial(ctx, st.Targets)
}

// follower has flows go where their host does. Datagrams come on one goroutine, which must not wait for an answer.
type follower struct{ asking atomic.Bool }

// stays says whether a flow may stay where it is: unless the host is known to be elsewhere. What is known no longer is asked for
// meanwhile; while nobody answers, the flow goes on.
func (w *follower) stays(ctx context.Context, r *Relay, f Finder, at netip.AddrPort) bool {
	targets, known := f.Known()
	if known {
		return len(targets) == 0 || slices.Contains(targets, at)
	}
	if w.asking.CompareAndSwap(false, true) {
		ok := r.spawn(func() {
			defer w.asking.Store(false)
			_, _ = r.find(ctx, f)
		})
		if !ok {
			w.asking.Store(false)
		}
	}
	return true
}

// Bounds of what waits for an answer at one UDP forward.
const (
	maxWaiting   = 64 // clients
	maxDatagrams = 4  // of each
)

// waiting are the first datagrams of flows whose host is being asked for.
type waiting struct {
	mu sync.Mutex
	m  map[netip.AddrPort][][]byte
}

// put keeps a copy; first says that nobody asks for this client yet. Not ok: there is no room.
func (w *waiting) put(from netip.AddrPort, data []byte) (first, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept, there := w.m[from]
	if !there && len(w.m) >= maxWaiting || len(kept) >= maxDatagrams {
		return false, false
	}
	if w.m == nil {
		w.m = map[netip.AddrPort][][]byte{}
	}
	w.m[from] = append(kept, bytes.Clone(data))
	return !there, true
}

func (w *waiting) take(from netip.AddrPort) [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.m[from]
	delete(w.m, from)
	return kept
}

// await keeps a datagram until it is known where the host is, and sends it then.
func (u *udpForward) await(from netip.AddrPort, st *forwardState, data []byte) {
	first, ok := u.waiting.put(from, data)
	if !ok {
		u.r.failed(st.meter, Limit)
		return
	}
	if !first {
		return
	}
	ok = u.r.spawn(func() {
		targets, why := u.r.find(u.ctx, st.Finder)
		kept := u.waiting.take(from)
		switch {
		case why != None:
			u.r.failed(st.meter, why)
			return
		case u.state.Load().Name != st.Name: // it leads to another host by now
			return
		}
		for _, data := range kept {
			u.send(from, data, st, targets)
		}
	})
	if !ok {
		u.waiting.take(from)
	}
}
