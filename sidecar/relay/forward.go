package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
)

// Forward makes a loopback address a door into the tunnel.
type Forward struct {
	Name     string         // for logs, errors and stats
	Listen   netip.AddrPort // loopback only
	Protocol Protocol
	Targets  []netip.AddrPort // inner addresses that are ready; none: connections are reset
	Finder   Finder           // where it leads instead, found for each connection; nil: to Targets
}

type forwardKey struct {
	proto Protocol
	at    netip.AddrPort
}

// forwardState is what a listener knows of its forward; replaced as a whole.
type forwardState struct {
	Forward
	meter *meter
}

func (r *Relay) forwardState(f Forward) *forwardState {
	return &forwardState{Forward: f, meter: r.meterFor(f.meterKey())}
}

func (f Forward) meterKey() meterKey { return meterKey{Outbound, f.Name, f.Protocol} }

// check validates a forward and returns it with its address in canonical form.
func (f Forward) check() (Forward, error) {
	at, err := checkLoopback(f.Listen)
	if err != nil {
		return f, fmt.Errorf("forward %q: listen: %w", f.Name, err)
	}
	f.Listen = at
	if f.Protocol != TCP && f.Protocol != UDP {
		return f, fmt.Errorf("forward %q: protocol %q is not TCP or UDP", f.Name, f.Protocol)
	}
	for _, t := range f.Targets {
		if !t.IsValid() || t.Port() == 0 || t.Addr().IsUnspecified() {
			return f, fmt.Errorf("forward %q: target %q is not an address and port", f.Name, t)
		}
	}
	return f, nil
}

// planForwards is the pure part of SetForwards: the forwards that can be, in order, and what is wrong with the others.
func planForwards(all []Forward) (want []Forward, bad []error) {
	seen := map[forwardKey]string{}
	for _, f := range all {
		f, err := f.check()
		if err != nil {
			bad = append(bad, err)
			continue
		}
		key := forwardKey{f.Protocol, f.Listen}
		if other, taken := seen[key]; taken {
			bad = append(bad, fmt.Errorf("forward %q: listen: %s %s is already taken by forward %q", f.Name, f.Protocol, f.Listen, other))
			continue
		}
		seen[key] = f.Name
		want = append(want, f)
	}
	return want, bad
}

// SetForwards makes the given forwards the ones that are served. Listeners that stay are not touched; new targets apply to new
// connections; connections of a forward that is gone are reset. A forward that cannot be served does not keep the others from
// it: the error joins one for each, and calling again tries them again.
func (r *Relay) SetForwards(all []Forward) error {
	r.setMu.Lock()
	defer r.setMu.Unlock()
	if r.isDraining() {
		return ErrDraining
	}
	want, bad := planForwards(all)
	keep := map[forwardKey]bool{}
	meters := map[meterKey]bool{}
	for _, f := range all {
		meters[f.meterKey()] = true
	}
	for _, f := range want {
		keep[forwardKey{f.Protocol, f.Listen}] = true
	}
	for key, l := range r.forwards {
		if !keep[key] {
			l.abort()
			delete(r.forwards, key)
		}
	}
	r.pruneMeters(Outbound, meters)
	for _, f := range want {
		key := forwardKey{f.Protocol, f.Listen}
		if l := r.forwards[key]; l != nil {
			l.update(f)
			continue
		}
		l, err := r.openForward(f)
		if err != nil {
			r.meterFor(f.meterKey()).fail(Bind)
			bad = append(bad, fmt.Errorf("forward %q: %w", f.Name, err))
			continue
		}
		r.forwards[key] = l
	}
	return errors.Join(bad...)
}

func (r *Relay) openForward(f Forward) (listener, error) {
	if f.Protocol == UDP {
		return r.openUDPForward(f)
	}
	return r.openTCPForward(f)
}

func (r *Relay) context() (context.Context, context.CancelFunc) { return context.WithCancel(r.ctx) }
