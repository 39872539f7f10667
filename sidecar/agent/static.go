package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath/auto"
)

// StaticOptions configure a sidecar without a cluster.
type StaticOptions struct {
	Path       string        // the configuration file
	Drain      time.Duration // how long open connections may finish after SIGTERM
	OwnProcess bool          // nothing else runs in this process: it limits and protects itself
	Version    string        // of the program
	Log        *slog.Logger
}

// CheckStatic says whether a configuration file is good, without using it.
func CheckStatic(path string) error {
	_, err := readStatic(path)
	return err
}

// RunStatic runs the data plane of a file until ctx ends. SIGHUP reads the file again: what differs is changed in place, and a file
// that is not good changes nothing.
func RunStatic(ctx context.Context, o StaticOptions) error {
	if err := prepare(o.OwnProcess); err != nil {
		return err
	}
	first, err := readStatic(o.Path)
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	kind, reason, err := auto.Probe(first.datapath, "", first.desired.iface)
	if err != nil {
		return fmt.Errorf("interface.datapath: %w", err)
	}
	p := newPlane(first.private, first.listenPort, choice{first.datapath, kind, reason}, o.Log)
	p.version, p.ownProcess = o.Version, o.OwnProcess
	return serve(ctx, first.health, o.Drain, p, o.Log, func(ctx context.Context) error {
		first.bind(p)
		if err := p.apply(first.desired); err != nil {
			return err
		}
		o.Log.Info("data path up", "datapath", string(kind), "why", reason, "publicKey", first.private.Public().String(), "listenPort", p.port(), "peers", len(first.desired.peers))
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-hup:
				reload(o, p, first)
			}
		}
	})
}

// errFixed names what only a restart changes.
var errFixed = errors.New("interface.privateKeyFile, interface.listenPort, interface.datapath and health cannot change while running: restart instead")

func reload(o StaticOptions, p *plane, first *static) {
	next, err := readStatic(o.Path)
	if err == nil && (!next.private.Equal(first.private) || next.listenPort != first.listenPort || next.datapath != first.datapath || next.health != first.health) {
		err = errFixed
	}
	if err == nil {
		next.bind(p)
		err = p.apply(next.desired)
	}
	if err != nil {
		o.Log.Error("the configuration was not reloaded; the last good one runs on", "error", err.Error())
		return
	}
	o.Log.Info("configuration reloaded", "peers", len(next.desired.peers), "forwards", len(next.desired.forwards))
}

// port is the outer UDP port in use.
func (p *plane) port() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.device == nil {
		return 0
	}
	return p.device.ListenPort()
}
