// Package auto chooses among the datapaths: it finds out what can be had where the process runs, by trying, and opens it. An own choice
// that cannot be had is an error, never another datapath.
package auto

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Auto is the choice of the best that can be had.
const Auto = "Auto"

// InterfaceName is the interface of the datapaths that have one.
const InterfaceName = "wg0"

// Options says how a datapath is opened.
type Options struct {
	Name       string // of the interface, for Kernel and TUN; empty: InterfaceName
	PrivateKey key.Private
	ListenPort uint16 // outer UDP port; zero takes a free one
	Interface  datapath.Interface
	Apart      bool            // of the datapaths with a real interface: nobody but its own addresses uses its routes
	Fence      *datapath.Fence // until when anything may leave; nil: always
	Pause      func()          // of Netstack, see wireguard.Options; nil: nothing waits
	Logger     *slog.Logger    // nil discards
}

// opener is one implementation.
type opener struct {
	kind datapath.Kind
	// hubByName: of a hub, Auto does not take it, since there it keeps less of the contract than the next one.
	hubByName bool
	probe     func(name string, like datapath.Interface) error
	open      func(Options) (datapath.Datapath, error)
}

// openers are those of this system, best first.
var openers = append(systemOpeners(), opener{
	kind:  datapath.Netstack,
	probe: func(string, datapath.Interface) error { return nil },
	open: func(o Options) (datapath.Datapath, error) {
		return opened(device.Open(device.Options{PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface, Fence: o.Fence, Pause: o.Pause, Logger: o.Logger}))
	},
})

// opened keeps a nil of a concrete type out of the interface.
func opened[D datapath.Datapath](d D, err error) (datapath.Datapath, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Check says whether the choice is one.
func Check(choice string) error {
	switch choice {
	case "", Auto, string(datapath.Kernel), string(datapath.TUN), string(datapath.Netstack):
		return nil
	}
	return fmt.Errorf("%q is not Auto, Kernel, TUN or Netstack", choice)
}

// Probe finds the datapath of a choice and says why it is that one. It really makes an interface of the given name (empty:
// InterfaceName), with the addresses and the MTU of like, and removes it.
func Probe(choice, name string, like datapath.Interface) (kind datapath.Kind, reason string, err error) {
	return probe(openers, choice, orDefault(name), like)
}

func probe(all []opener, choice, name string, like datapath.Interface) (datapath.Kind, string, error) {
	if err := Check(choice); err != nil {
		return "", "", err
	}
	var missing []string
	for _, o := range all {
		wanted := string(o.kind) == choice
		if !wanted && choice != Auto && choice != "" {
			continue
		}
		err := errHubByName
		if wanted || !o.hubByName || !like.Hub {
			err = o.probe(name, like)
		}
		switch {
		case err == nil && wanted:
			return o.kind, fmt.Sprintf("%s was asked for", o.kind), nil
		case err == nil:
			return o.kind, because(o.kind, missing), nil
		case wanted:
			return "", "", fmt.Errorf("datapath %s was asked for and cannot be had: %w", choice, err)
		}
		missing = append(missing, fmt.Sprintf("no %s: %v", o.kind, err))
	}
	return "", "", fmt.Errorf("datapath %s is not for this system", choice)
}

// errHubByName is why Auto passes over one: it does not rewrite addresses, nor limit handshakes, nor tell who sends too much at once.
var errHubByName = errors.New("a gateway has it where it is asked for by name")

func because(kind datapath.Kind, missing []string) string {
	if len(missing) == 0 {
		return fmt.Sprintf("Auto: %s works here", kind)
	}
	return fmt.Sprintf("Auto: %s; %s", kind, strings.Join(missing, "; "))
}

// Open opens a datapath of the kind that Probe found.
func Open(kind datapath.Kind, o Options) (datapath.Datapath, error) {
	o.Name = orDefault(o.Name)
	for _, x := range openers {
		if x.kind == kind {
			return x.open(o)
		}
	}
	return nil, fmt.Errorf("datapath %q is not for this system", kind)
}

func orDefault(name string) string {
	if name == "" {
		return InterfaceName
	}
	return name
}
