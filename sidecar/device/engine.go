package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	wg "github.com/tailscale/wireguard-go/device"
	"github.com/tailscale/wireguard-go/tun"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// EngineOptions says how an Engine is made.
type EngineOptions struct {
	PrivateKey key.Private
	ListenPort uint16       // outer UDP port; zero takes a free one
	Mark       uint32       // of outer packets, for policy routing; zero: none
	Logger     *slog.Logger // nil discards
	// Follow is told of every change of peers, as they are to be, before it counts as made: an error takes the change back. It
	// is how routes follow AllowedIPs.
	Follow func(next delta.Registry) error
}

// Engine is the outside of a userspace WireGuard interface.
type Engine struct {
	wg     *wg.Device
	bind   *bind
	self   key.Public
	port   uint16
	follow func(delta.Registry) error

	mu     sync.Mutex // one configuration change at a time
	peers  delta.Registry
	closed bool
}

// NewEngine runs wireguard-go on a tun.Device, which it owns from here on, whatever happens.
func NewEngine(t tun.Device, o EngineOptions) (*Engine, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	warnSmallBuffers(o.Logger)
	b := newBind()
	e := &Engine{
		bind:   b,
		wg:     wg.NewDevice(t, b, engineLog(o.Logger), engineOptions()...),
		self:   o.PrivateKey.Public(),
		peers:  make(delta.Registry),
		follow: o.Follow,
	}
	if err := e.start(o); err != nil {
		e.wg.Close()
		return nil, err
	}
	return e, nil
}

func (e *Engine) start(o EngineOptions) error {
	if o.PrivateKey.IsZero() {
		return errors.New("no private key")
	}
	if err := e.apply(config{PrivateKey: &o.PrivateKey, ListenPort: &o.ListenPort}); err != nil {
		return err
	}
	if err := e.wg.BindSetMark(o.Mark); err != nil {
		return fmt.Errorf("mark outer packets: %w", err)
	}
	if err := e.wg.Up(); err != nil {
		return fmt.Errorf("listen on UDP port %d: %w", o.ListenPort, err)
	}
	st, err := e.status()
	if err != nil {
		return err
	}
	e.port = st.ListenPort
	return nil
}

// ListenPort is the outer UDP port in use.
func (e *Engine) ListenPort() uint16 { return e.port }

// UpdatePeers applies one delta, all of it or nothing. Peers that it does not change are not touched, even where it names
// them.
func (e *Engine) UpdatePeers(upsert []datapath.Peer, remove []key.Public) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("update peers: %w", net.ErrClosed)
	}
	change, err := delta.Plan(e.self, e.peers, upsert, remove)
	if err != nil {
		return fmt.Errorf("update peers: %w", err)
	}
	if len(change.Changes) == 0 {
		return nil
	}
	undoEndpoints := e.place(change.Changes)
	next := maps.Clone(e.peers)
	next.Commit(change)
	err = e.apply(config{Peers: change.Changes})
	if err == nil && e.follow != nil {
		err = e.follow(next)
	}
	if err != nil {
		// The engine takes a text line by line. What it refuses half way is put back as it was.
		undo := e.apply(config{Peers: e.peers.Restore(change.Changes)})
		undoEndpoints()
		return fmt.Errorf("update peers: %w", errors.Join(err, undo))
	}
	e.peers = next
	for _, k := range change.Removed {
		e.bind.remove(k)
	}
	return nil
}

// place tells the socket where peers are, before the engine sends to them, and returns what takes it back.
func (e *Engine) place(changes []delta.Change) (undo func()) {
	var back []func()
	for _, c := range changes {
		if c.Remove {
			continue
		}
		w, fresh := e.bind.add(c.PublicKey)
		if fresh {
			back = append(back, func() { e.bind.remove(c.PublicKey) })
		}
		if c.Endpoint.IsValid() {
			was := w.at.Load()
			back = append(back, func() { w.at.Store(was) })
			w.set(c.Endpoint)
		}
	}
	return func() {
		for _, f := range back {
			f()
		}
	}
}

// Peers lists the peers with their counters, sorted by key.
func (e *Engine) Peers() ([]datapath.PeerStats, error) {
	st, err := e.status()
	if err != nil {
		return nil, fmt.Errorf("list peers: %w", err)
	}
	for i := range st.Peers {
		if w := e.bind.peer(st.Peers[i].PublicKey); w != nil {
			st.Peers[i].TxBytes -= min(st.Peers[i].TxBytes, w.uncounted.Load())
		}
	}
	slices.SortFunc(st.Peers, func(a, b datapath.PeerStats) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return st.Peers, nil
}

// Forget makes every later change fail as one of a closed engine; what runs goes on until Close.
func (e *Engine) Forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
}

// Close ends the engine and its tun.Device. Closing twice is no error.
func (e *Engine) Close() error {
	e.Forget()
	e.wg.Close()
	return nil
}

func (e *Engine) apply(c config) error {
	var text bytes.Buffer
	defer func() { clear(text.Bytes()[:text.Cap()]) }() // it may hold keys
	if err := writeConfig(&text, c); err != nil {
		return err
	}
	if err := e.wg.IpcSetOperation(bytes.NewReader(text.Bytes())); err != nil {
		return fmt.Errorf("configure engine: %w", err)
	}
	return nil
}

func (e *Engine) status() (status, error) {
	var text bytes.Buffer
	defer func() { clear(text.Bytes()[:text.Cap()]) }() // it holds keys
	if err := e.wg.IpcGetOperation(&text); err != nil {
		return status{}, fmt.Errorf("read engine state: %w", err)
	}
	return parseStatus(bytes.NewReader(text.Bytes()))
}

// Format names the engine by its public key under every verb: inside are keys in unexported fields, which fmt would print.
func (e *Engine) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "engine %s", e.self) }

// The engine's queues count batches, each of up to 128 packets or 128 KiB. Their defaults (1024) let a gateway hold hundreds of
// megabytes and make a request wait behind all of it. Short ones push back instead: outbound on TCP's writers through
// netstack's queue, inbound on the socket's buffer, which the sender's congestion control sees.
const (
	queueStaged    = 64 // while a handshake is under way; mostly single packets
	queueOutbound  = 16
	queueInbound   = 32
	queueHandshake = 256
)

func engineOptions() []wg.Option {
	return []wg.Option{
		wg.WithQueueStagedSize(queueStaged),
		wg.WithQueueOutboundSize(queueOutbound),
		wg.WithQueueInboundSize(queueInbound),
		wg.WithQueueHandshakeSize(queueHandshake),
	}
}

// engineLog sends what the engine prints to slog: its chatter at debug, its errors at warn, since it goes on after each. It
// prints peers by an abbreviated public key and never a secret one.
func engineLog(l *slog.Logger) *wg.Logger {
	at := func(level slog.Level) func(string, ...any) {
		return func(format string, args ...any) {
			if l.Enabled(context.Background(), level) {
				l.Log(context.Background(), level, "wireguard: "+fmt.Sprintf(format, args...))
			}
		}
	}
	return &wg.Logger{Verbosef: at(slog.LevelDebug), Errorf: at(slog.LevelWarn)}
}

// wantBuffer is the socket buffer that the engine asks for. A pod without privileges gets at most net.core.rmem_max, often
// 208 KiB: everything works, but a burst that finds the reader busy is lost and sent again.
const wantBuffer = 7 << 20

func warnSmallBuffers(l *slog.Logger) {
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		return // not Linux, or hidden from us: nothing to say
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n < wantBuffer {
		l.Info("the node limits UDP receive buffers; raise the sysctl for more throughput under load",
			"sysctl", "net.core.rmem_max", "bytes", n, "wanted", wantBuffer)
	}
}
