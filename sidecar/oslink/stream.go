//go:build linux

package oslink

import (
	"net"
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// stream is a kernel connection through the tunnel. It stays a syscall.Conn: the relay reads it without holding a buffer.
type stream struct {
	*net.TCPConn
	l  *Link
	at netip.AddrPort // our end as the peer knows it
}

var _ datapath.Stream = (*stream)(nil)

func newStream(l *Link, c *net.TCPConn, at netip.AddrPort) *stream { return &stream{c, l, at} }

func (s *stream) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.at) }

func (s *stream) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(addrPort(s.TCPConn.RemoteAddr()))
}

// Singly says that what is to be read comes in small pieces.
func (s *stream) Singly() bool { return s.l.singly }

func (s *stream) Close() error {
	s.l.untrack(s)
	return s.TCPConn.Close()
}

// Abort sends RST and frees the connection.
func (s *stream) Abort() {
	s.l.untrack(s)
	s.end()
}

func (s *stream) local() netip.Addr { return s.at.Addr() }
func (s *stream) end()              { abort(s.TCPConn) }

// abort closes a connection by reset.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only on what is closed already
	_ = c.Close()
}

// datagram is a connected kernel socket through the tunnel.
type datagram struct {
	*net.UDPConn
	l       *Link
	at      netip.AddrPort // our end as the peer knows it
	onClose func()
}

func newDatagram(l *Link, c *net.UDPConn, at netip.AddrPort) *datagram {
	return &datagram{UDPConn: c, l: l, at: at}
}

func (d *datagram) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(d.at) }

func (d *datagram) RemoteAddr() net.Addr {
	return net.UDPAddrFromAddrPort(addrPort(d.UDPConn.RemoteAddr()))
}

func (d *datagram) Close() error {
	d.l.untrack(d)
	err := d.UDPConn.Close()
	if err == nil && d.onClose != nil { // only the first Close succeeds
		d.onClose()
	}
	return err
}

func (d *datagram) local() netip.Addr { return d.at.Addr() }

// end closes the socket under its owner, who closes it once more.
func (d *datagram) end() {
	if d.UDPConn.Close() == nil && d.onClose != nil {
		d.onClose()
	}
}
