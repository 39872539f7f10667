package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Ahead holds ports of Egress open before there is a Relay to serve them: the kernel accepts connections, which wait with what they
// send, and keeps the first datagrams. A Relay that is made with it takes the ports over as they are. The zero value is ready.
type Ahead struct {
	mu  sync.Mutex // guards what follows
	tcp map[netip.AddrPort]*net.TCPListener
	udp map[netip.AddrPort]*net.UDPConn
}

// Open makes the given ports the ones that are open; connections that wait at others are reset. The error joins one for each port that
// cannot be opened.
func (a *Ahead) Open(ctx context.Context, all []Egress) error {
	want, bad := planEgress(all)
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, l := range a.tcp {
		if _, ok := want[forwardKey{TCP, at}]; !ok {
			_ = l.Close()
			delete(a.tcp, at)
		}
	}
	for at, c := range a.udp {
		if _, ok := want[forwardKey{UDP, at}]; !ok {
			_ = c.Close()
			delete(a.udp, at)
		}
	}
	for key := range want {
		if err := a.open(ctx, key.proto, key.at); err != nil {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

func (a *Ahead) open(ctx context.Context, protocol Protocol, at netip.AddrPort) error {
	if a.tcp == nil {
		a.tcp, a.udp = map[netip.AddrPort]*net.TCPListener{}, map[netip.AddrPort]*net.UDPConn{}
	}
	var err error
	switch {
	case a.tcp[at] != nil && protocol == TCP, a.udp[at] != nil && protocol == UDP:
	case protocol == UDP:
		var c *net.UDPConn
		if c, err = listenUDP(ctx, at); err == nil {
			a.udp[at] = c
		}
	default:
		var l *net.TCPListener
		if l, err = listenEgress(ctx, at); err == nil {
			a.tcp[at] = l
		}
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", at, err)
	}
	return nil
}

// Close closes what no Relay took over; connections that wait there are reset.
func (a *Ahead) Close() { _ = a.Open(context.Background(), nil) }

// takeTCP is the port's listener, from now on the caller's: the one that was open, or a new one.
func (a *Ahead) takeTCP(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error) {
	if a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if l := a.tcp[at]; l != nil {
			delete(a.tcp, at)
			return l, nil
		}
	}
	return listenEgress(ctx, at)
}

// takeUDP is the same for datagrams.
func (a *Ahead) takeUDP(ctx context.Context, at netip.AddrPort) (*net.UDPConn, error) {
	if a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if c := a.udp[at]; c != nil {
			delete(a.udp, at)
			return c, nil
		}
	}
	return listenUDP(ctx, at)
}

// listenEgress keeps connections alive: clients are on other hosts, and may vanish.
func listenEgress(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp"+family(at.Addr()), at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}
