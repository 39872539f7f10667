package netstack

import (
	"context"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// DialTCP connects through the tunnel. Without a deadline in ctx it gives up after about a minute.
func (s *Stack) DialTCP(ctx context.Context, to netip.AddrPort) (datapath.Stream, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c, err := s.dialTCP(ctx, to)
	if err != nil {
		return nil, opError("connect", "tcp", nil, net.TCPAddrFromAddrPort(to), err)
	}
	return c, nil
}

func (s *Stack) dialTCP(ctx context.Context, to netip.AddrPort) (*stream, error) {
	if err := s.dialable(ctx, to); err != nil {
		return nil, err
	}
	addr, proto := full(to)
	wq := new(waiter.Queue)
	ep, err := s.ip.NewEndpoint(tcp.ProtocolNumber, proto, wq)
	if err != nil {
		return nil, fromTCPIP(err)
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents | endEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	err = ep.Connect(addr)
	if _, started := err.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			err = ep.LastError()
		case <-ctx.Done():
			ep.Close()
			return nil, ctx.Err()
		case <-s.done:
			ep.Close()
			return nil, net.ErrClosed
		}
	}
	if err != nil {
		ep.Close()
		return nil, fromTCPIP(err)
	}
	return s.newStream(ep, wq, localOf(ep), to), nil
}

// DialUDP makes a connected datagram socket through the tunnel.
func (s *Stack) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c, err := s.dialUDP(ctx, to)
	if err != nil {
		return nil, opError("connect", "udp", nil, net.UDPAddrFromAddrPort(to), err)
	}
	return c, nil
}

func (s *Stack) dialUDP(ctx context.Context, to netip.AddrPort) (*datagram, error) {
	if err := s.dialable(ctx, to); err != nil {
		return nil, err
	}
	addr, proto := full(to)
	wq := new(waiter.Queue)
	ep, err := s.ip.NewEndpoint(udp.ProtocolNumber, proto, wq)
	if err != nil {
		return nil, fromTCPIP(err)
	}
	if err := ep.Connect(addr); err != nil {
		ep.Close()
		return nil, fromTCPIP(err)
	}
	return newDatagram(ep, wq, localOf(ep), to), nil
}

func (s *Stack) dialable(ctx context.Context, to netip.AddrPort) error {
	switch {
	case s.closed():
		return net.ErrClosed
	case !unicast(to.Addr()):
		return errNotOurs
	case to.Port() == 0:
		return &net.AddrError{Err: "port 0", Addr: to.String()}
	}
	return ctx.Err()
}

func localOf(ep tcpip.Endpoint) netip.AddrPort {
	a, err := ep.GetLocalAddress()
	if err != nil || a.Addr.BitLen() == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(fromAddress(a.Addr), a.Port)
}
