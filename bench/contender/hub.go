package contender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/noise"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Population is who else is a peer of a hub, outside as the near end is.
type Population struct {
	Active int // our Netstack in the near host, each with a way in of its own; at most 100
	Idle   int // made one handshake and say nothing
}

// The cables between a hub and the ends; the cable between the ends is for the server's counters alone then.
var (
	nearCable = [2]netip.Prefix{netip.MustParsePrefix("203.0.113.1/25"), netip.MustParsePrefix("203.0.113.3/25")}
	farCable  = [2]netip.Prefix{netip.MustParsePrefix("203.0.113.130/25"), netip.MustParsePrefix("203.0.113.131/25")}
)

// Gateways lists the contenders of which one end is an outside peer, upstream on TUN, and the other a member of ours: as they are with
// nothing between, the yardstick, and with a hub that passes packets on.
func Gateways() []Contender {
	sidecar := kind{name: "Netstack", start: startSidecar("Netstack")}
	wggo := kind{name: "wggo", start: startWireguardGo}
	return []Contender{
		{Name: "direct", near: wggo, far: sidecar},
		{Name: "gateway", near: wggo, via: sidecar, far: sidecar},
		{Name: "gateway-wggo", near: wggo, via: kind{name: "wggo", start: forwarding(startWireguardGo)}, far: sidecar},
		{Name: "gateway-in-kernel", near: wggo, via: kind{name: "Kernel", start: startSidecar("Kernel")}, far: sidecar, kernel: true},
		{Name: "gateway-kernel", near: wggo, via: kind{name: "plain", start: forwarding(startPlainKernel)}, far: sidecar, kernel: true},
	}
}

// forwarding is a hub whose kernel passes packets on from its interface to the same.
func forwarding(start func(*end) (running, error)) func(*end) (running, error) {
	return func(e *end) (running, error) {
		if err := e.host.Forward(); err != nil {
			return running{}, err
		}
		return start(e)
	}
}

func startPlainKernel(e *end) (running, error) { return running{}, e.plainKernel() }

// between puts a hub between the ends: each knows the hub alone, which knows both.
func (p *Pair) between(s *Setup) error {
	host, err := p.lab.NewHost()
	if err != nil {
		return err
	}
	hub := identity{3, key.NewPrivate()}
	p.via = &end{setup: s, lab: &p.lab, place: s.Place, host: host, self: hub, hub: true, port: outerPort, peers: []peer{
		{public: p.near.self.private.Public(), allowed: p.far.peers[0].allowed, outside: true},
		{public: p.far.self.private.Public(), allowed: p.near.peers[0].allowed, endpoint: netip.AddrPortFrom(farCable[0].Addr(), outerPort)}}}
	p.near.peers[0].public, p.near.peers[0].endpoint = hub.private.Public(), netip.AddrPortFrom(nearCable[1].Addr(), outerPort)
	p.far.peers[0].public = hub.private.Public()
	if err := p.population(s.Peers); err != nil {
		return err
	}
	return errors.Join(
		lab.Connect(lab.Plug{Host: p.near.host, Link: "eth1", Address: nearCable[0]}, lab.Plug{Host: host, Link: "eth0", Address: nearCable[1]}),
		lab.Connect(lab.Plug{Host: p.far.host, Link: "eth1", Address: farCable[0]}, lab.Plug{Host: host, Link: "eth1", Address: farCable[1]}))
}

// population makes up the further peers, whom the hub and the far end are to know before they start.
func (p *Pair) population(want Population) (err error) {
	const first = 10 // of their numbers: the ends and the hub have those before
	for i := range want.Active {
		self := identity{first + i, key.NewPrivate()}
		e := *p.near
		e.self, e.port = self, outerPort+uint16(self.n)
		e.way = netip.AddrPortFrom(localPort.Addr(), Port+uint16(self.n))
		p.active = append(p.active, &e)
		own := []netip.Prefix{netip.PrefixFrom(self.inner(), 32)}
		p.via.peers = append(p.via.peers, peer{public: self.private.Public(), allowed: own, outside: true})
		p.far.peers[0].allowed = append(p.far.peers[0].allowed, own...)
	}
	known := len(p.via.peers)
	if p.idle, err = p.via.crowd(want.Idle); err != nil {
		return err
	}
	for i := range p.via.peers[known:] {
		p.via.peers[known+i].outside = true
	}
	return nil
}

// populate starts the active peers of a hub and has the idle ones shake hands.
func (p *Pair) populate(ctx context.Context) error {
	for _, e := range p.active {
		r, err := startSidecar("Netstack")(e)
		if err != nil {
			return fmt.Errorf("peer %d of the hub: %w", e.self.n, err)
		}
		if err := p.answers(ctx, r.tcp); err != nil {
			return fmt.Errorf("peer %d of the hub: %w", e.self.n, err)
		}
		p.Active = append(p.Active, r.tcp)
	}
	if len(p.idle) == 0 {
		return nil
	}
	var c net.Conn
	var err error
	p.near.host.Do(func() { c, err = net.Dial("udp", netip.AddrPortFrom(nearCable[1].Addr(), outerPort).String()) })
	if err != nil {
		return err
	}
	defer c.Close()
	a, err := noise.Flood(ctx, c, p.idle, 1)
	if err == nil && a.Responses < len(p.idle) {
		err = fmt.Errorf("of %d idle peers %d were answered", len(p.idle), a.Responses)
	}
	return err
}
