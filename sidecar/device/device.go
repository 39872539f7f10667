// Package device is the seam between TenantWire and the userspace WireGuard engine. An Engine is the outside: wireguard-go with
// its UDP socket, between peers and any tun.Device. Open joins it to a netstack.Stack, which makes the Netstack datapath; package
// tun joins it to a kernel's TUN device.
//
// Flow: callers speak in typed deltas (UpdatePeers); package delta decides purely what such a delta changes; uapi.go writes
// those changes, and nothing else, as the engine's configuration text. The Engine keeps a registry of its own of what is
// configured, because wireguard-go forgets it: an endpoint that a peer has roamed to is not the one we gave, and must survive a
// delta that repeats what we gave.
//
// Ownership: an Engine owns its tun.Device, wireguard-go's device and its UDP socket; Close ends them all. Keys are handed to
// wireguard-go and kept in the registry; they are in no log and no error.
package device

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

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

// Device is one userspace WireGuard interface on a netstack: the datapath that needs no privileges.
type Device struct {
	*netstack.Stack
	*Engine
	closing sync.Once
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
	s, err := netstack.New(netstack.Options{
		Interface: o.Interface, Limits: o.Limits, DisableRACK: o.DisableRACK,
	})
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	e, err := NewEngine(s.Device(), EngineOptions{PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Logger: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	return &Device{Stack: s, Engine: e}, nil
}

// Kind is Netstack.
func (d *Device) Kind() datapath.Kind { return datapath.Netstack }

// Capabilities is all there is: nothing here depends on a kernel's rules.
func (d *Device) Capabilities() datapath.Capabilities {
	return datapath.Capabilities{AsksFirst: true, OwnAddress: true}
}

// Close resets every connection, so that the other ends learn of it, and ends the device. Closing twice is no error.
func (d *Device) Close() error {
	d.closing.Do(func() {
		d.Forget()
		d.AbortAll(goodbye)
		time.Sleep(flight)
		_ = d.Engine.Close() // closes the Stack
	})
	return nil
}

// Format names the device by its public key under every verb: inside are keys in unexported fields, which fmt would print.
func (d *Device) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "netstack device %s", d.self) }
