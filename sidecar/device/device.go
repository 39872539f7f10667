// Package device is the datapath that needs no privileges: a WireGuard engine (package wireguard) joined to a TCP/IP stack in this
// process (package netstack).
//
// Ownership: a Device owns both. Close resets the connections first, while their resets can still leave, then ends the engine, so
// that nobody waits for its socket, and then the stack.
package device

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/netstack"
	"github.com/tenantwire/tenantwire/sidecar/wireguard"
)

// Options says how a Device is opened.
type Options struct {
	PrivateKey key.Private
	ListenPort uint16 // outer UDP port; zero takes a free one
	Interface  datapath.Interface
	Limits     netstack.Limits
	Fence      *datapath.Fence // until when anything may leave; nil: always
	Pause      func()          // of wireguard.Options
	Logger     *slog.Logger    // nil discards
}

// Device is one userspace WireGuard interface on a netstack: the datapath that needs no privileges.
type Device struct {
	*netstack.Stack
	*wireguard.Engine
	closing sync.Once
}

var (
	_ datapath.Datapath = (*Device)(nil)
	_ datapath.Limiter  = (*Device)(nil)
	_ datapath.Grouper  = (*Device)(nil)
	_ datapath.Tapper   = (*Device)(nil)
)

// goodbye is how long Close lets the resets of open connections leave.
const goodbye = 200 * time.Millisecond

// Open brings a device up without peers.
func Open(o Options) (*Device, error) {
	if o.PrivateKey.IsZero() {
		return nil, errors.New("open device: no private key")
	}
	s, err := netstack.New(netstack.Options{
		Interface: o.Interface, Limits: o.Limits,
	})
	if err != nil {
		return nil, fmt.Errorf("open device: %w", err)
	}
	e, err := wireguard.Open(wireguard.Options{
		PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Logger: o.Logger, MTU: s.MTU, Deliver: s.Deliver, MaySend: o.Fence.Open, Pause: o.Pause,
	})
	if err != nil {
		return nil, fmt.Errorf("open device: %w", errors.Join(err, s.Close()))
	}
	s.Connect(e)
	e.SetHub(o.Interface)
	e.SetProbes(o.Interface)
	return &Device{Stack: s, Engine: e}, nil
}

// SetInterface changes addresses, MTU and whether packets are passed on; see datapath.Datapath.
func (d *Device) SetInterface(i datapath.Interface) error {
	if err := d.Stack.SetInterface(i); err != nil {
		return err
	}
	d.SetHub(i)
	d.SetProbes(i)
	return nil
}

// Drops is what either side dropped, by reason; see the engine's.
func (d *Device) Drops() map[string]uint64 {
	out, s := d.Engine.Drops(), d.Stats()
	out[datapath.DropMalformed] += s.DropMalformed
	out[datapath.DropForeignSource] += s.DropSource
	out[datapath.DropForeignDestination] = s.DropDestination
	out[datapath.DropRefused] = s.RefusedTCP + s.RefusedUDP
	out[datapath.DropOverLimit] = s.DropTCPRequests + s.DropUDPFlows
	return out
}

// GroupBy sets which addresses are one peer's; see datapath.Grouper.
func (d *Device) GroupBy(peerOf func(netip.Addr) netip.Addr) {
	d.Stack.GroupBy(peerOf)
	d.ShareBy(peerOf)
}

// Kind is Netstack.
func (d *Device) Kind() datapath.Kind { return datapath.Netstack }

// Capabilities is all there is: nothing here depends on a kernel's rules.
func (d *Device) Capabilities() datapath.Capabilities {
	return datapath.Capabilities{AsksFirst: true, OwnAddress: true, Hub: true, Mappings: true, PathMTU: true, CountsMessages: true, CountsMartians: true}
}

// Close resets every connection, so that the other ends learn of it, and ends the device. Closing twice is no error.
func (d *Device) Close() (err error) {
	d.closing.Do(func() {
		d.Forget()
		d.AbortAll(goodbye)
		err = errors.Join(d.Engine.Close(), d.Stack.Close())
	})
	return err
}

// Format names the device by its public key under every verb: inside are keys in unexported fields, which fmt would print.
func (d *Device) Format(f fmt.State, verb rune) {
	_, _ = fmt.Fprint(f, "netstack device of ")
	d.Engine.Format(f, verb)
}
