//go:build linux

package oslink

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// keepalive makes both ends notice within two minutes that the other is gone, as in package netstack.
var keepalive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}

// DialTCP connects through the tunnel, from the first of our addresses of that family. The socket is held to the interface: without
// a route, or with the interface gone, the dial fails, and nothing leaves elsewhere.
func (l *Link) DialTCP(ctx context.Context, to netip.AddrPort) (datapath.Stream, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c, err := l.dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	s := newStream(l, c.(*net.TCPConn), addrPort(c.LocalAddr()))
	if !l.track(s) {
		return nil, opError("tcp", to, net.ErrClosed)
	}
	return s, nil
}

// DialUDP makes a connected datagram socket through the tunnel, held to it like those of DialTCP.
func (l *Link) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	c, err := l.dial(ctx, "udp", to)
	if err != nil {
		return nil, err
	}
	d := newDatagram(l, c.(*net.UDPConn), addrPort(c.LocalAddr()))
	if !l.track(d) {
		return nil, opError("udp", to, net.ErrClosed)
	}
	return d, nil
}

func (l *Link) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	from, err := l.sourceFor(to)
	if err != nil {
		return nil, opError(network, to, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	d := net.Dialer{KeepAliveConfig: keepalive, Control: l.hold, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil && l.ctx.Err() != nil {
		err = opError(network, to, net.ErrClosed)
	}
	return c, err
}

// sourceFor is the address that a connection to there comes from.
func (l *Link) sourceFor(to netip.AddrPort) (netip.Addr, error) {
	own := *l.own.Load()
	from := preferred(own, to.Addr().Is4())
	switch {
	case l.ctx.Err() != nil:
		return from, net.ErrClosed
	case !datapath.Unicast(to.Addr()):
		return from, datapath.ErrNotUnicast
	case to.Port() == 0:
		return from, &net.AddrError{Err: "port 0", Addr: to.String()}
	case !from.IsValid():
		return from, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	for _, a := range own {
		if a == to.Addr() { // the kernel would lead it round by loopback, past the policy
			return from, os.NewSyscallError("connect", syscall.ECONNREFUSED)
		}
	}
	return from, nil
}

// hold ties a socket to the interface before it is bound.
func (l *Link) hold(_, _ string, c syscall.RawConn) error {
	return control(c, func(fd int) error {
		if err := unix.BindToDevice(fd, l.name); err != nil {
			return os.NewSyscallError("bind to interface "+l.name, err)
		}
		// The port is chosen when the destination is known: one address has ports enough for each destination.
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
	})
}

func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func opError(network string, to netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
}

func addrPort(a net.Addr) netip.AddrPort {
	var p netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		p = a.AddrPort()
	case *net.UDPAddr:
		p = a.AddrPort()
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
