// Package device is the seam between TenantWire and the userspace WireGuard engine: Open makes a datapath.Datapath out of a
// netstack.Stack (the inside) and a wireguard-go device (the outside).
//
// Flow: callers speak in typed deltas (UpdatePeers); plan.go decides purely what such a delta changes; uapi.go writes those
// changes, and nothing else, as the engine's configuration text. The package keeps its own registry of what is configured,
// because the engine forgets it: an endpoint that a peer has roamed to is not the one we gave, and must survive a delta that
// repeats what we gave.
//
// Ownership: a Device owns its Stack, its engine and its UDP socket; Close ends them all. Keys are handed to the engine and
// kept in the registry; they are in no log and no error.
package device

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	wg "github.com/tailscale/wireguard-go/device"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/netstack"
)

// Options says how a Device is opened.
type Options struct {
	PrivateKey key.Private
	ListenPort uint16 // outer UDP port; zero takes a free one
	Interface  datapath.Interface
	Limits     netstack.Limits
	// DisableRACK switches TCP's RACK loss recovery off; see netstack.Options.
	DisableRACK bool
	Logger      *slog.Logger // nil discards
}

// Device is one userspace WireGuard interface.
type Device struct {
	*netstack.Stack
	engine *wg.Device
	bind   *bind
	self   key.Public
	port   uint16

	mu     sync.Mutex // one configuration change at a time
	peers  registry
	closed bool
}

var _ datapath.Datapath = (*Device)(nil)

// goodbye is how long Close lets the resets of open connections leave.
const goodbye = 200 * time.Millisecond

// flight is how long Close waits after the engine has taken the last reset: it encrypts and sends on goroutines of its own, and a
// closed engine drops what they hold without a word.
const flight = 20 * time.Millisecond

// Open brings a device up without peers.
func Open(o Options) (*Device, error) {
	if o.PrivateKey.IsZero() {
		return nil, errors.New("open device: no private key")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := netstack.New(netstack.Options{
		Interface: o.Interface, Limits: o.Limits, DisableRACK: o.DisableRACK,
	})
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	warnSmallBuffers(o.Logger)
	b := newBind()
	d := &Device{
		Stack:  s,
		bind:   b,
		engine: wg.NewDevice(s.Device(), b, engineLog(o.Logger), engineOptions()...),
		self:   o.PrivateKey.Public(),
		peers:  make(registry),
	}
	if err := d.start(o); err != nil {
		d.engine.Close()
		return nil, fmt.Errorf("open device: %w", err)
	}
	return d, nil
}

func (d *Device) start(o Options) error {
	if err := d.apply(config{PrivateKey: &o.PrivateKey, ListenPort: &o.ListenPort}); err != nil {
		return err
	}
	if err := d.engine.Up(); err != nil {
		return fmt.Errorf("listen on UDP port %d: %w", o.ListenPort, err)
	}
	st, err := d.status()
	if err != nil {
		return err
	}
	d.port = st.ListenPort
	return nil
}

// Kind is Netstack.
func (d *Device) Kind() datapath.Kind { return datapath.Netstack }

// ListenPort is the outer UDP port in use.
func (d *Device) ListenPort() uint16 { return d.port }

// UpdatePeers applies one delta, all of it or nothing. Peers that it does not change are not touched, even where it names
// them.
func (d *Device) UpdatePeers(upsert []datapath.Peer, remove []key.Public) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("update peers: %w", net.ErrClosed)
	}
	delta, err := plan(d.self, d.peers, upsert, remove)
	if err != nil {
		return fmt.Errorf("update peers: %w", err)
	}
	if len(delta.changes) == 0 {
		return nil
	}
	undoEndpoints := d.place(delta.changes)
	if err := d.apply(config{Peers: delta.changes}); err != nil {
		// The engine takes a text line by line. What it refuses half way is put back as it was.
		undo := d.apply(config{Peers: d.peers.restore(delta.changes)})
		undoEndpoints()
		return fmt.Errorf("update peers: %w", errors.Join(err, undo))
	}
	d.peers.commit(delta)
	for _, k := range delta.removed {
		d.bind.remove(k)
	}
	return nil
}

// place tells the socket where peers are, before the engine sends to them, and returns what takes it back.
func (d *Device) place(changes []peerChange) (undo func()) {
	var back []func()
	for _, c := range changes {
		if c.Remove {
			continue
		}
		w, fresh := d.bind.add(c.PublicKey)
		if fresh {
			back = append(back, func() { d.bind.remove(c.PublicKey) })
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
func (d *Device) Peers() ([]datapath.PeerStats, error) {
	st, err := d.status()
	if err != nil {
		return nil, fmt.Errorf("list peers: %w", err)
	}
	slices.SortFunc(st.Peers, func(a, b datapath.PeerStats) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
	return st.Peers, nil
}

// Close resets every connection, so that the other ends learn of it, and ends the device. Closing twice is no error.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.AbortAll(goodbye)
	time.Sleep(flight)
	d.engine.Close() // closes the Stack
	return nil
}

func (d *Device) apply(c config) error {
	var text bytes.Buffer
	defer func() { clear(text.Bytes()[:text.Cap()]) }() // it may hold keys
	if err := writeConfig(&text, c); err != nil {
		return err
	}
	if err := d.engine.IpcSetOperation(bytes.NewReader(text.Bytes())); err != nil {
		return fmt.Errorf("configure engine: %w", err)
	}
	return nil
}

func (d *Device) status() (status, error) {
	var text bytes.Buffer
	defer func() { clear(text.Bytes()[:text.Cap()]) }() // it holds keys
	if err := d.engine.IpcGetOperation(&text); err != nil {
		return status{}, fmt.Errorf("read engine state: %w", err)
	}
	return parseStatus(bytes.NewReader(text.Bytes()))
}

// Format names the device by its public key under every verb: inside are keys in unexported fields, which fmt would print.
func (d *Device) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "netstack device %s", d.self) }
