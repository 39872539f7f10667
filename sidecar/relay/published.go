package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Published makes one port of a Service answer at addresses of the tunnel that are the Service's own, and leads it to one of its targets.
type Published struct {
	Name      string       // of the Service
	Addresses []netip.Addr // the interface's, and no other Service's
	Port      uint16
	Protocol  Protocol
	Inside    []netip.AddrPort // reached through the tunnel
	Outside   []netip.AddrPort // reached by the pod's own network; never the pod itself, nor what is not another host's
}

// target is one of what a published port leads to. The same address inside and outside is two.
type target struct {
	netip.AddrPort
	outside bool
}

// SetPublished makes the given ports the ones that are answered for at Services' own addresses, and nothing else is answered for there.
// New targets apply to new connections, and to flows whose target is gone; connections to a port that is gone, or that is another
// Service's now, and those that AllowInbound no longer allows, are reset. What is wrong with one entry or target does not keep the
// others out; the error names each.
func (r *Relay) SetPublished(all []Published) error {
	r.setMu.Lock()
	defer r.setMu.Unlock()
	if r.isDraining() {
		return ErrDraining
	}
	want, bad := r.planPublished(all)
	r.inbound.set(want, true)
	r.inbound.attach()
	return errors.Join(bad...)
}

func (r *Relay) planPublished(all []Published) (want map[inboundKey]*inboundPort, bad []error) {
	want = map[inboundKey]*inboundPort{}
	own, unknown := r.ownAddresses(all)
	owner := map[netip.Addr]string{}
	for _, p := range all {
		wrong := func(err error) {
			bad = append(bad, fmt.Errorf("published %s:%d %s: %w", p.Name, p.Port, p.Protocol, err))
		}
		if err := p.check(owner); err != nil {
			wrong(err)
			continue
		}
		targets := make([]target, 0, len(p.Inside)+len(p.Outside))
		for _, at := range p.Inside {
			targets = append(targets, target{at, false})
		}
		for _, at := range p.Outside {
			if err := errors.Join(unknown, checkOutside(at, own)); err != nil {
				wrong(err)
				continue
			}
			targets = append(targets, target{at, true})
		}
		for _, a := range p.Addresses {
			owner[a] = p.Name
			key := inboundKey{p.Protocol, p.Port, a}
			if want[key] != nil {
				wrong(fmt.Errorf("%s is listed twice", a))
				continue
			}
			want[key] = &inboundPort{key: key, service: p.Name, targets: targets}
		}
	}
	return want, bad
}

func (p *Published) check(owner map[netip.Addr]string) error {
	switch {
	case p.Name == "":
		return errors.New("name is not set")
	case p.Port == 0:
		return errors.New("port is not set")
	case p.Protocol != TCP && p.Protocol != UDP:
		return fmt.Errorf("protocol %q is not TCP or UDP", p.Protocol)
	}
	for _, a := range p.Addresses {
		if !datapath.Unicast(a) {
			return fmt.Errorf("%s: %w", a, datapath.ErrNotUnicast)
		}
		if other := owner[a]; other != "" && other != p.Name {
			return fmt.Errorf("%s belongs to %s", a, other)
		}
	}
	for _, t := range p.Inside {
		if t.Port() == 0 || !datapath.Unicast(t.Addr()) {
			return fmt.Errorf("target %s: %w", t, datapath.ErrNotUnicast)
		}
	}
	return nil
}

// checkOutside refuses what could not be another pod: who comes in by the tunnel must not reach the pod itself, its node's link or
// anything that many share. Whether it is one was for whoever said so to prove.
func checkOutside(t netip.AddrPort, own []netip.Addr) error {
	switch a := t.Addr(); {
	case t.Port() == 0 || !datapath.Unicast(a):
		return fmt.Errorf("target %s is not a port of another pod", t)
	case slices.Contains(own, a):
		return fmt.Errorf("target %s is the pod's own address", t)
	}
	return nil
}

// ownAddresses are the pod's, if anything leads outside.
func (r *Relay) ownAddresses(all []Published) ([]netip.Addr, error) {
	if r.opts.OwnAddresses == nil || !slices.ContainsFunc(all, func(p Published) bool { return len(p.Outside) > 0 }) {
		return nil, nil
	}
	own, err := r.opts.OwnAddresses()
	if err != nil {
		return nil, fmt.Errorf("which addresses are the pod's own: %w", err)
	}
	return own, nil
}

// left says whether a flow's target is no longer behind the port that it came in by.
func (in *inboundSide) left(f *flow[inboundFlow]) bool {
	if !f.served.IsValid() {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	p := in.find(f.key.local, UDP)
	return p == nil || !slices.Contains(p.targets, f.served)
}

func (in *inboundSide) dialTarget(ctx context.Context, t target) (datapath.Stream, error) {
	if t.outside {
		return in.pods.DialTCP(ctx, t.AddrPort)
	}
	return in.r.network.DialTCP(ctx, t.AddrPort)
}

func (in *inboundSide) dialTargetUDP(ctx context.Context, t target) (net.Conn, error) {
	if t.outside {
		return in.pods.DialUDP(ctx, t.AddrPort)
	}
	return in.r.network.DialUDP(ctx, t.AddrPort)
}

// podNetwork dials other pods.
type podNetwork interface {
	DialTCP(context.Context, netip.AddrPort) (datapath.Stream, error)
	DialUDP(context.Context, netip.AddrPort) (net.Conn, error)
}

// kernelNetwork is the pod's own network.
type kernelNetwork struct{}

func (kernelNetwork) DialTCP(ctx context.Context, to netip.AddrPort) (datapath.Stream, error) {
	var d net.Dialer // with keepalive: the other pod is on another host, and may vanish
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp"+family(to.Addr()), to.String())
	if err != nil {
		return nil, fmt.Errorf("dial pod: %w", err)
	}
	return localStream{c.(*net.TCPConn)}, nil
}

func (kernelNetwork) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return dialLocalUDP(ctx, to)
}
