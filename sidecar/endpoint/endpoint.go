// Package endpoint keeps the endpoints of peers that are given by name: it looks the names up, and again while a peer does not
// answer.
//
// The resolver tells no lifetimes, and an address that works must not be left for another. So a name is looked up until it is found
// once, and from then on only for a peer whose last handshake is too old to be a living one's.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

const (
	// interval is how often the peers are looked at.
	interval = 5 * time.Second
	// alive bounds the age of a living peer's handshake: whoever sends makes a new one after 120 s, and has 15 s for it here.
	alive = 135 * time.Second
	// trying lies between two look-ups for a peer that is sent to and does not answer.
	trying = 30 * time.Second
	// silent is the same for one that nothing is sent to: it may be well, and a large tunnel must not burden its name servers.
	silent = 5 * time.Minute
	// firstWait doubles with every failure up to trying, before a name was ever found.
	firstWait = time.Second
	// timeout bounds one look-up.
	timeout = 10 * time.Second
	// parallel bounds the look-ups at a time.
	parallel = 4
)

// Options are what a Resolver works with. All but Log are required.
type Options struct {
	// Lookup asks for a host's addresses, best first.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Accept says whether an address may be a peer's.
	Accept func(netip.Addr) bool
	// Peers reads the live state of all peers; nil where there is none yet.
	Peers func() []datapath.PeerStats
	// Move gives a peer that still has this name another endpoint.
	Move func(peer key.Public, name string, to netip.AddrPort) error
	Log  *slog.Logger
}

// Resolver follows names. All methods are safe for concurrent use.
type Resolver struct {
	o    Options
	wake chan struct{} // capacity 1: there are names that nobody looked up yet

	mu            sync.Mutex // guards what follows; not held while Options' functions run
	names         map[key.Public]*name
	found, failed uint64
}

// name is a peer's endpoint by name and what is known of it.
type name struct {
	text    string         // HOST:PORT
	at      netip.AddrPort // zero: never found
	asked   time.Time      // the last look-up
	wait    time.Duration  // until the next, where it was never found
	sent    uint64         // bytes sent to the peer by the last look-up
	problem string         // of the last look-up, to log the same one once
}

// query is one look-up that is due.
type query struct {
	peer key.Public
	name
	leave bool // the peer is sent to where it is and does not answer
}

// New makes a Resolver that follows nothing yet.
func New(o Options) *Resolver {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Resolver{o: o, wake: make(chan struct{}, 1), names: map[key.Public]*name{}}
}

// Set replaces what is followed: HOST:PORT by peer. What is known of a name that stays is kept.
func (r *Resolver) Set(names map[key.Public]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.names {
		if _, ok := names[k]; !ok {
			delete(r.names, k)
		}
	}
	for k, text := range names {
		if old, ok := r.names[k]; ok && old.text == text {
			continue
		}
		r.names[k] = &name{text: text, wait: firstWait}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// At is the endpoint that a peer's name was last found to be; zero: none yet.
func (r *Resolver) At(peer key.Public) netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.names[peer]; ok {
		return n.at
	}
	return netip.AddrPort{}
}

// Counts are the look-ups so far that found an address, and those that failed.
func (r *Resolver) Counts() (found, failed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.found, r.failed
}

// Run looks names up until ctx ends.
func (r *Resolver) Run(ctx context.Context) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for ctx.Err() == nil {
		r.round(ctx)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-r.wake:
		}
	}
}

func (r *Resolver) round(ctx context.Context) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, q := range r.due() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r.look(ctx, q)
		})
	}
	wg.Wait()
}

// due are the look-ups whose time has come.
func (r *Resolver) due() (out []query) {
	r.mu.Lock()
	idle := len(r.names) == 0
	r.mu.Unlock()
	if idle {
		return nil
	}
	live := map[key.Public]datapath.PeerStats{}
	for _, p := range r.o.Peers() {
		live[p.PublicKey] = p
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, n := range r.names {
		if q := (query{peer: k, name: *n}); q.isDue(now, live[k]) {
			n.asked, n.sent = now, live[k].TxBytes
			out = append(out, q)
		}
	}
	return out
}

func (q *query) isDue(now time.Time, live datapath.PeerStats) bool {
	since := now.Sub(q.asked)
	switch {
	case !q.at.IsValid():
		return q.asked.IsZero() || since >= q.wait
	case now.Sub(live.LastHandshake) < alive:
		return false
	case live.TxBytes != q.sent:
		q.leave = true
		return since >= trying
	}
	return since >= silent
}

// look asks once and moves the peer where the answer says.
func (r *Resolver) look(ctx context.Context, q query) {
	to, err := r.lookup(ctx, q)
	if err == nil && to != q.at {
		r.place(q, to) // first, as whoever configures the peer meanwhile asks At
		if err = r.o.Move(q.peer, q.text, to); err != nil {
			r.place(q, q.at)
		}
	}
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.names[q.peer]
	if !ok || n.text != q.text {
		return // no longer followed
	}
	if err != nil {
		r.failed++
		n.wait = min(2*n.wait, trying)
		if n.problem != err.Error() {
			n.problem = err.Error()
			r.o.Log.Warn("endpoint not found", "endpoint", n.text, "publicKey", q.peer.String(), "error", n.problem)
		}
		return
	}
	r.found++
	if q.at != to || n.problem != "" {
		r.o.Log.Info("endpoint found", "endpoint", n.text, "publicKey", q.peer.String(), "address", to.String())
	}
	n.problem = ""
}

func (r *Resolver) place(q query, at netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.names[q.peer]; ok && n.text == q.text {
		n.at = at
	}
}

func (r *Resolver) lookup(ctx context.Context, q query) (netip.AddrPort, error) {
	host, port, err := wire.SplitEndpointName(q.text)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := r.o.Lookup(ctx, host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	to, err := r.choose(answer, q)
	return netip.AddrPortFrom(to, port), err
}

// choose takes the best address, but stays where the peer is as long as that is among them. One where it does not answer is left for
// the next of them, around and around.
func (r *Resolver) choose(answer []netip.Addr, q query) (netip.Addr, error) {
	if len(answer) == 0 {
		return netip.Addr{}, errors.New("it has no address")
	}
	var good []netip.Addr
	for _, a := range answer {
		if a = a.Unmap(); r.o.Accept(a) {
			good = append(good, a)
		}
	}
	if len(good) == 0 {
		return netip.Addr{}, fmt.Errorf("its address %s is not one that a peer can have", answer[0])
	}
	at := slices.Index(good, q.at.Addr())
	switch {
	case at < 0:
		return good[0], nil
	case q.leave:
		return good[(at+1)%len(good)], nil
	}
	return good[at], nil
}
