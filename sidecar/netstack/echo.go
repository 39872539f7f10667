package netstack

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

var _ datapath.Echoer = (*Stack)(nil)

// Echo asks for an ICMP echo; see datapath.Echoer.
func (s *Stack) Echo(ctx context.Context, to netip.Addr, size int) error {
	to = to.Unmap()
	request, transport := echoRequest4(size), icmp.ProtocolNumber4
	if to.Is6() {
		request, transport = echoRequest6(size), icmp.ProtocolNumber6
	}
	if request == nil || size > s.MTU() {
		return fmt.Errorf("ask %s for an echo: %d bytes are less than the headers or more than the MTU of %d", to, size, s.MTU())
	}
	c, err := s.dialEcho(ctx, to, transport)
	if err != nil {
		return fmt.Errorf("ask %s for an echo: %w", to, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err = c.Write(request); err == nil {
		_, err = c.Read(make([]byte, len(request))) // only the answer to this very request gets here
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (s *Stack) dialEcho(ctx context.Context, to netip.Addr, transport tcpip.TransportProtocolNumber) (*datagram, error) {
	const discard = 9 // no port is sent; dialable wants one
	if err := s.dialable(ctx, netip.AddrPortFrom(to, discard)); err != nil {
		return nil, err
	}
	addr, proto := full(netip.AddrPortFrom(to, 0))
	wq := new(waiter.Queue)
	ep, err := s.ip.NewEndpoint(transport, proto, wq)
	if err != nil {
		return nil, fromTCPIP(err)
	}
	if err := ep.Connect(addr); err != nil {
		ep.Close()
		return nil, fromTCPIP(err)
	}
	return newDatagram(ep, wq, localOf(ep), netip.AddrPortFrom(to, 0)), nil
}

// echoRequest4 is the ICMP part of a request whose packet has size bytes; nil: there is no such packet. The identifier and the checksum are
// gVisor's to fill in.
func echoRequest4(size int) []byte {
	if size < datapath.EchoHeaders4 {
		return nil
	}
	h := header.ICMPv4(make([]byte, size-header.IPv4MinimumSize))
	h.SetType(header.ICMPv4Echo)
	return h
}

func echoRequest6(size int) []byte {
	if size < datapath.EchoHeaders6 {
		return nil
	}
	h := header.ICMPv6(make([]byte, size-header.IPv6MinimumSize))
	h.SetType(header.ICMPv6EchoRequest)
	return h
}
