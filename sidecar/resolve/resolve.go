// Package resolve looks names up at a site's own servers, through the tunnel, and asks nobody else for anything.
//
//	Lookup -> the longest zone that holds the name -> kept? -> its servers, A and AAAA at once -> what may be used of the answer -> kept
//
// A name in no zone is an error, and so is one in a zone none of whose servers answers: there is no other place to look. What a server
// says is taken for what it is worth: an address that is not behind an outside peer is left out, so that a site can lead its names
// nowhere but to sites.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Bounds of what is kept, and for how long.
const (
	maxNames   = 1024            // kept at once
	maxPending = 64              // names that are being asked for
	maxFound   = 16              // addresses of a name
	leastTTL   = time.Second     // of what was found, whatever the server says
	mostTTL    = 5 * time.Minute //
	noneTTL    = 5 * time.Second // of a name that there is not
	failedTTL  = time.Second     // of a name that nobody answered for
)

// Why a name is not found.
var (
	ErrNoZone   = errors.New("in no zone")
	ErrNotFound = errors.New("no such name, or none of its addresses is behind an outside peer")
	ErrNoAnswer = errors.New("no server of its zone answered")
	errBusy     = errors.New("too many names are being looked up")
	errClosed   = errors.New("the resolver is closed")
)

// Config is where to look, and what may be found. It is not changed any more once it is set.
type Config struct {
	Zones  []wire.DNSZone
	Within []netip.Prefix // addresses outside of these are left out: the routes of outside peers
	Except []netip.Prefix // and these too: the tunnel's own
	IPv4   bool           // look for IPv4 addresses
	IPv6   bool           // look for IPv6 addresses
}

// Counts is what became of look-ups since the start. Answers from what is kept are not counted.
type Counts struct {
	Found, NotFound, Failed uint64
	LeftOut                 uint64 // addresses that were not behind an outside peer
}

// Resolver looks names up. All methods are safe for concurrent use.
type Resolver struct {
	log     *slog.Logger
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	network atomic.Pointer[datapath.Network] // nil until Start
	state   atomic.Pointer[state]
	told    atomic.Int64 // unix nanoseconds of the last warning

	mu     sync.Mutex // guards what follows, and serializes Set
	closed bool

	found, notFound, failed, leftOut atomic.Uint64
}

// state is a configuration and what was found under it: what one tunnel's servers said counts for no other.
type state struct {
	Config
	mu      sync.Mutex // guards what follows
	names   map[string]*entry
	pending int
	sick    map[netip.AddrPort]time.Time // servers that did not answer; until then they are asked last
}

// entry is a name; what it is may be read once done is closed.
type entry struct {
	done  chan struct{}
	addrs []netip.Addr
	err   error
	until time.Time
}

func (e *entry) isDone() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// fresh says whether it still holds, or is being asked for.
func (e *entry) fresh(now time.Time) bool { return !e.isDone() || now.Before(e.until) }

// New makes a resolver that knows no zone.
func New(log *slog.Logger) *Resolver {
	r := &Resolver{log: log}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.state.Store(newState(Config{}))
	return r
}

func newState(c Config) *state {
	return &state{Config: c, names: map[string]*entry{}, sick: map[netip.AddrPort]time.Time{}}
}

// Start says through what to ask. Before, no name is found.
func (r *Resolver) Start(n datapath.Network) { r.network.Store(&n) }

// Set changes where to look. What was found before is forgotten, unless nothing changes.
func (r *Resolver) Set(c Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !reflect.DeepEqual(r.state.Load().Config, c) {
		r.state.Store(newState(c))
	}
}

// Close ends what is under way. No name is found any more.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// spawn runs f on a goroutine that Close waits for; false once it is closed.
func (r *Resolver) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.wg.Go(f)
	}
	return !r.closed
}

// Counts returns the counters.
func (r *Resolver) Counts() Counts {
	return Counts{r.found.Load(), r.notFound.Load(), r.failed.Load(), r.leftOut.Load()}
}

// Holds says whether a name, in lower case and without a dot at its end, is in a zone.
func (r *Resolver) Holds(name string) bool { return r.state.Load().zone(name) != nil }

// zone is the longest that holds a name; nil: none.
func (s *state) zone(name string) (longest *wire.DNSZone) {
	for i := range s.Zones {
		if z := &s.Zones[i]; z.Holds(name) && (longest == nil || len(z.Domain) > len(longest.Domain)) {
			longest = z
		}
	}
	return longest
}

// Known is what is kept of a name, no address where there is none; false: Lookup would have to ask.
func (r *Resolver) Known(name string) ([]netip.Addr, bool) {
	s := r.state.Load()
	s.mu.Lock()
	e := s.names[name]
	s.mu.Unlock()
	if e == nil || !e.isDone() || !e.fresh(time.Now()) {
		return nil, false
	}
	return e.addrs, true
}

// Lookup finds the addresses of a name, in lower case and without a dot at its end: at least one, in the order of the answer, IPv6
// first. Whoever asks for a name that is being looked up waits with those who did before. The slice is shared.
func (r *Resolver) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	for {
		s := r.state.Load()
		e, err := r.entry(s, name)
		if err != nil {
			return nil, fmt.Errorf("look up %.255q: %w", name, err)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("look up %.255q: %w", name, ctx.Err())
		}
		if s != r.state.Load() {
			continue // what may be found has changed since
		}
		if e.err != nil {
			return nil, fmt.Errorf("look up %.255q: %w", name, e.err)
		}
		return e.addrs, nil
	}
}

// entry is that of a name: the one that is kept, or a new one that is being asked for.
func (r *Resolver) entry(s *state, name string) (*entry, error) {
	zone := s.zone(name)
	if zone == nil {
		return nil, ErrNoZone
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.names[name]; e != nil && e.fresh(now) {
		return e, nil
	}
	if s.pending >= maxPending {
		return nil, errBusy
	}
	e := &entry{done: make(chan struct{})}
	ok := r.spawn(func() {
		e.addrs, e.until, e.err = r.find(s, zone, name)
		close(e.done)
		s.mu.Lock()
		s.pending--
		s.mu.Unlock()
	})
	if !ok {
		return nil, errClosed
	}
	s.makeRoom(now)
	s.names[name] = e
	s.pending++
	return e, nil
}

// makeRoom keeps the names bounded: what is over goes first, then whatever comes to hand.
func (s *state) makeRoom(now time.Time) {
	if len(s.names) < maxNames {
		return
	}
	for name, e := range s.names {
		if !e.fresh(now) {
			delete(s.names, name)
		}
	}
	for name, e := range s.names {
		if len(s.names) < maxNames {
			return
		}
		if e.isDone() { // nobody waits for it
			delete(s.names, name)
		}
	}
}

// usable says whether a name may lead to an address.
func (s *state) usable(a netip.Addr) bool {
	in := func(p netip.Prefix) bool { return p.Contains(a) }
	return datapath.Unicast(a) && slices.ContainsFunc(s.Within, in) && !slices.ContainsFunc(s.Except, in)
}

// find asks for both families, and says how long what it found may be kept.
func (r *Resolver) find(s *state, z *wire.DNSZone, name string) (addrs []netip.Addr, until time.Time, err error) {
	answers, err := r.askFamilies(s, z, name)
	ttl, left := mostTTL, []netip.Addr(nil)
	for _, a := range answers {
		for _, real := range a.addrs {
			addr := z.Seen(real)
			if !s.usable(addr) {
				left = append(left, addr)
			} else if len(addrs) < maxFound && !slices.Contains(addrs, addr) {
				addrs, ttl = append(addrs, addr), min(ttl, a.ttl)
			}
		}
	}
	if len(left) > 0 {
		r.leftOut.Add(uint64(len(left)))
		r.warn("a name leads to an address that is not behind an outside peer, which is left out", "name", name, "address", left[0].String())
	}
	switch {
	case len(addrs) > 0:
		r.found.Add(1)
		return addrs, time.Now().Add(max(ttl, leastTTL)), nil
	case err != nil && len(left) == 0:
		r.failed.Add(1)
		r.warn("a name could not be looked up", "name", name, "error", err.Error())
		return nil, time.Now().Add(failedTTL), err
	}
	r.notFound.Add(1)
	return nil, time.Now().Add(noneTTL), ErrNotFound
}

// warn logs at most once in ten seconds: who asks in a loop must not fill the log.
func (r *Resolver) warn(message string, args ...any) {
	last, now := r.told.Load(), time.Now().UnixNano()
	if (last == 0 || now-last > int64(10*time.Second)) && r.told.CompareAndSwap(last, now) {
		r.log.Warn(message, args...)
	}
}
