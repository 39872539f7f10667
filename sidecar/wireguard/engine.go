package wireguard

import (
	"bytes"
	"cmp"
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailscale/wireguard-go/ratelimiter"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

var (
	errUnknownPeer = errors.New("unknown peer")
	errReplayed    = errors.New("not newer than what came before")
	errTooSoon     = errors.New("too many")
	errWrongMAC    = errors.New("not meant for this key")
	errMayNotSend  = errors.New("another process has our place")
)

// Options says how an Engine is opened.
type Options struct {
	PrivateKey key.Private
	ListenPort uint16       // outer UDP port; zero takes a free one
	Mark       uint32       // of outer packets, for policy routing; zero: none
	Logger     *slog.Logger // nil discards
	// MTU is the inner MTU, up to which packets are padded; it may change.
	MTU func() int
	// Deliver takes packets of one peer that are authentic and from an address that the peer may have, each beginning at the
	// offset. It may be called by several goroutines at once, and must have done with the buffers when it returns.
	Deliver func(packets [][]byte, offset int)
	// MaySend is asked before anything leaves, so that a process that was stopped, or is about to end, does not speak for another that
	// has taken its place. Nil: always.
	MaySend func() bool
	// Pause is called by whoever reads a socket, after the work of each read, and may wait; nil: nothing waits.
	Pause func()
	// Follow is told of every change of peers, as they are to be, before it is made: after an error nothing has changed. It is
	// how routes follow AllowedIPs.
	Follow func(next delta.Registry) error
	// FollowMTU is told how long packets to some inner addresses may be, in bytes, where that is less than the MTU; and again when that
	// changes. Nil: nobody needs to know.
	FollowMTU func(limits map[netip.Prefix]int) error
}

// Engine is the outside of one userspace WireGuard interface. All methods are safe for concurrent use.
type Engine struct {
	self    key.Public
	static  *ecdh.PrivateKey
	log     *slog.Logger
	mtu     func() int
	deliver func([][]byte, int)
	maySend func() bool
	pause   func()
	follow  func(delta.Registry) error
	began   time.Time
	port    uint16
	sockets sockets
	checker checker
	index   index
	letters chan *letter
	loaded  atomic.Int64 // instant until which cookies are asked for
	looks   atomic.Int64 // instant from which a packet of no session is looked at
	senders senders
	crowded atomic.Int64 // instant until which a socket counts as one that overflows
	limiter func() *ratelimiter.Ratelimiter
	hub     atomic.Pointer[hub]      // nil: nothing is passed on
	limits  atomic.Pointer[limits]   // nil: peers may take what they can
	tap     atomic.Pointer[onlooker] // nil: nobody is shown packets
	count   counters

	standsFor atomic.Pointer[func(netip.Addr) netip.Addr] // nil: each inner address for itself
	holders   holders
	paths

	mu     sync.RWMutex // guards what follows
	peers  map[key.Public]*peer
	routes routes

	changes  sync.Mutex // one change of configuration at a time
	registry delta.Registry
	closed   bool
	readers  sync.WaitGroup
	workers  sync.WaitGroup
}

// counters count what was dropped, and why.
type counters struct {
	noPeer            atomic.Uint64 // to send: nobody may have the destination
	sendErrors        atomic.Uint64 // messages that the system refused
	malformed         atomic.Uint64 // neither a WireGuard message nor, once decrypted, an IP packet
	noSession         atomic.Uint64 // of no session, or of one that has expired
	unauthentic       atomic.Uint64
	replayed          atomic.Uint64
	source            atomic.Uint64 // from an inner address that the peer may not have
	notForwarded      atomic.Uint64 // from one peer to another that it may not reach through us
	expired           atomic.Uint64 // made its last hop here, and was for somebody else
	tooBig            atomic.Uint64 // to pass on, and longer than the path to the next peer takes; the sender was told
	receiveLimit      atomic.Uint64 // of a peer that has received more than its bandwidth
	overShare         atomic.Uint64 // of a peer that had its share, while the socket overflowed
	sendLimit         atomic.Uint64 // to a peer that was sent more than its bandwidth
	handshakesLimit   atomic.Uint64 // more than a peer may begin
	handshakesRefused atomic.Uint64
	handshakesLost    atomic.Uint64 // more than could be looked at
}

// Drops is how much was dropped since the engine began, by reason: packets, or, where handshakes are named, messages.
func (e *Engine) Drops() map[string]uint64 {
	c := &e.count
	return map[string]uint64{
		datapath.DropNoPeer: c.noPeer.Load(), datapath.DropSendError: c.sendErrors.Load(), datapath.DropMalformed: c.malformed.Load(),
		datapath.DropNoSession: c.noSession.Load(), datapath.DropUnauthentic: c.unauthentic.Load(), datapath.DropReplayed: c.replayed.Load(),
		datapath.DropForeignSource: c.source.Load(), datapath.DropNotForwarded: c.notForwarded.Load(), datapath.DropHopLimit: c.expired.Load(),
		datapath.DropTooBig: c.tooBig.Load(), datapath.DropOverShare: c.overShare.Load(), datapath.DropReceiveLimit: c.receiveLimit.Load(),
		datapath.DropSendLimit: c.sendLimit.Load(), datapath.DropHandshakeLimit: c.handshakesLimit.Load(),
		datapath.DropHandshakeRefused: c.handshakesRefused.Load(), datapath.DropHandshakeLost: c.handshakesLost.Load(),
	}
}

// Open brings an engine up without peers.
func Open(o Options) (*Engine, error) {
	if o.PrivateKey.IsZero() {
		return nil, errors.New("no private key")
	}
	e := &Engine{
		self: o.PrivateKey.Public(), static: o.PrivateKey.ECDH(),
		log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler)), mtu: o.MTU, deliver: o.Deliver, maySend: o.MaySend, pause: o.Pause, follow: o.Follow,
		began: time.Now(), checker: checker{keys: newMACKeys(o.PrivateKey.Public())}, paths: paths{follow: o.FollowMTU},
		index: index{mark: newIndexMark(o.PrivateKey.ECDH().Bytes()), entries: make(map[uint32]entry)}, letters: make(chan *letter, 1024),
		peers: make(map[key.Public]*peer), registry: make(delta.Registry),
	}
	e.limiter = sync.OnceValue(func() *ratelimiter.Ratelimiter {
		r := new(ratelimiter.Ratelimiter)
		r.Init()
		return r
	})
	if err := e.sockets.open(o.ListenPort, o.Mark); err != nil {
		return nil, fmt.Errorf("listen on UDP port %d: %w", o.ListenPort, err)
	}
	e.port = e.sockets.port
	for i, s := range e.sockets.all() {
		e.readers.Go(func() { e.read(i, s) })
	}
	n := min(4, runtime.GOMAXPROCS(0))
	e.workers.Add(n)
	for range n {
		go e.work()
	}
	return e, nil
}

// now is the engine's clock.
func (e *Engine) now() instant { return instant(time.Since(e.began)) + 1 }

// ListenPort is the outer UDP port in use.
func (e *Engine) ListenPort() uint16 { return e.port }

// route finds the peer that may have an inner address, or nil.
func (e *Engine) route(a netip.Addr) *peer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.routes.lookup(a)
}

func (e *Engine) peer(k key.Public) *peer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.peers[k]
}

// ShareBy sets what finds the inner address that stands for all of a sender's, where one peer passes on what many send; see
// datapath.Grouper.
func (e *Engine) ShareBy(of func(netip.Addr) netip.Addr) { e.standsFor.Store(&of) }

// socketTo is what to send to the endpoint with, if anything may be sent.
func (e *Engine) socketTo(to *endpoint) (*socket, error) {
	s := e.sockets.of(to.to.Addr())
	if s == nil {
		return nil, errNoFamily
	}
	if e.maySend != nil && !e.maySend() {
		return nil, errMayNotSend
	}
	return s, nil
}

// sendBatch sends encrypted packets by the message. It says whether some were longer than the system takes the path's MTU for.
func (e *Engine) sendBatch(to *endpoint, packets [][]byte) (tooLong bool, err error) {
	s, err := e.socketTo(to)
	if err != nil {
		return false, err
	}
	for len(packets) > 0 {
		n := messageLength(packets)
		long, err := s.send(to, packets[:n])
		if err != nil {
			return tooLong, err
		}
		packets, tooLong = packets[n:], tooLong || long
	}
	return tooLong, nil
}

// sendTo answers a handshake message that is nobody's yet.
func (e *Engine) sendTo(to *endpoint, msg []byte) {
	if _, err := e.sendBatch(to, [][]byte{msg}); err != nil {
		e.count.sendErrors.Add(1)
		e.log.Debug("cookie not sent", "to", to.to.String(), "error", err)
	}
}

func (e *Engine) sendFailed(p *peer, err error) {
	e.count.sendErrors.Add(1)
	e.log.Debug("packets not sent", "peer", p.key.String(), "error", err)
}

// UpdatePeers applies one delta, all of it or nothing. Peers that it does not change are not touched, even where it names
// them.
func (e *Engine) UpdatePeers(upsert []datapath.Peer, remove []key.Public) error {
	e.changes.Lock()
	defer e.changes.Unlock()
	if e.closed {
		return fmt.Errorf("update peers: %w", net.ErrClosed)
	}
	change, err := delta.Plan(e.self, e.registry, upsert, remove)
	if err != nil {
		return fmt.Errorf("update peers: %w", err)
	}
	if len(change.Changes) == 0 {
		return nil
	}
	next := maps.Clone(e.registry)
	next.Commit(change)
	if e.follow != nil {
		if err := e.follow(next); err != nil {
			return fmt.Errorf("update peers: %w", err)
		}
	}
	for _, c := range change.Changes {
		e.change(c, e.registry[c.PublicKey], next[c.PublicKey])
	}
	e.registry = next
	if e.limited || e.narrow.Load() > 0 { // allowed IPs may have come, or be another peer's
		e.tellLimitsLocked()
	}
	return nil
}

// change makes one planned change of a peer that was configured as was and is to be as is; it cannot fail.
func (e *Engine) change(c delta.Change, was, is datapath.Peer) {
	p := e.peer(c.PublicKey)
	if c.New {
		p = newPeer(e, c.PublicKey)
	}
	p.configure(c) // before a new one can be found: without its preshared key it would spoil a handshake
	p.remap(c, is)
	p.carries.Store(carriesMany(is))
	p.aim(is)
	e.mu.Lock()
	e.peers[c.PublicKey] = p
	if c.Remove || c.ReplaceAllowedIPs {
		for _, ip := range was.AllowedIPs {
			e.routes.unset(ip, p)
		}
	}
	for _, ip := range c.AllowedIPs {
		e.routes.set(ip, p)
	}
	if c.Remove {
		delete(e.peers, c.PublicKey)
	}
	e.mu.Unlock()
	if c.Remove {
		p.remove()
		return
	}
	if c.ReplaceAllowedIPs || c.Mappings != nil {
		p.dropHeld()
	}
	p.reach(c)
}

// configure takes what a change says of the peer itself.
func (p *peer) configure(c delta.Change) {
	if c.PresharedKey != nil {
		p.mu.Lock()
		p.preshared = c.PresharedKey.Array()
		p.mu.Unlock()
	}
	if c.Endpoint.IsValid() {
		p.at.Store(&endpoint{to: c.Endpoint})
		p.pathMoved()
	}
	if c.Outside != nil {
		p.outside.Store(*c.Outside)
	}
	if c.Keepalive != nil {
		p.keepalive.Store(int64(time.Duration(*c.Keepalive) * time.Second))
	}
}

// reach goes where the change makes it possible, or wanted, to go.
func (p *peer) reach(c delta.Change) {
	switch {
	case p.at.Load() == nil || !c.Endpoint.IsValid() && c.Keepalive == nil:
	case p.keepalive.Load() > 0:
		p.sendKeepalive() // opens the way now, not after the first interval
	case p.waiting.Load():
		p.start(p.engine.now())
	}
}

// Peers lists the peers with their counters, sorted by key.
func (e *Engine) Peers() ([]datapath.PeerStats, error) {
	e.changes.Lock()
	defer e.changes.Unlock()
	out := make([]datapath.PeerStats, 0, len(e.registry))
	for k, c := range e.registry {
		p := e.peer(k)
		if p == nil {
			continue // closed
		}
		st := datapath.PeerStats{
			PublicKey: k, AllowedIPs: slices.Clone(c.AllowedIPs), Endpoint: p.addrPort(), RxBytes: p.rx.Load(), TxBytes: p.tx.Load(),
		}
		if n := p.shaken.Load(); n != 0 {
			st.LastHandshake = time.Unix(0, n)
		}
		st.PathMTU, st.MTUState = p.pathStats()
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b datapath.PeerStats) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return out, nil
}

// Forget makes every later change fail as one of a closed engine; what runs goes on until Close.
func (e *Engine) Forget() {
	e.changes.Lock()
	defer e.changes.Unlock()
	e.closed = true
}

// Close ends the engine. Closing twice is no error.
func (e *Engine) Close() error {
	e.Forget()
	if !e.sockets.close() {
		return nil
	}
	e.readers.Wait()
	close(e.letters)
	e.workers.Wait()
	e.mu.Lock()
	peers := slices.Collect(maps.Values(e.peers))
	clear(e.peers)
	e.routes = routes{}
	e.mu.Unlock()
	for _, p := range peers {
		p.remove()
	}
	e.holders.delivering.Wait()
	e.limiter().Close()
	return nil
}

// Format names the engine by its public key under every verb: inside are keys in unexported fields, which fmt would print.
func (e *Engine) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "engine %s", e.self) }
