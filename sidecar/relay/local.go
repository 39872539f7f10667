package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// localStream is a loopback TCP connection of the kernel.
type localStream struct{ *net.TCPConn }

var _ datapath.Stream = localStream{}

// Abort sends RST.
func (s localStream) Abort() {
	_ = s.SetLinger(0)
	_ = s.Close()
}

// noKeepalive: the kernel is ours and the application's, and ends the connections of whoever vanishes. Keepalive would be four system
// calls a connection that find nothing.
const noKeepalive = -1

// family returns "4" or "6", which keeps a wildcard of the other family from being bound along.
func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

func tuneControl(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { tuneLocal(int(fd)) })
}

func listenTCP(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: tuneControl, KeepAlive: noKeepalive}
	lc.SetMultipathTCP(false) // loopback has one path
	ln, err := lc.Listen(ctx, "tcp"+family(at.Addr()), at.String())
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

func listenUDP(ctx context.Context, at netip.AddrPort) (*net.UDPConn, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp"+family(at.Addr()), at.String())
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

func dialLocalTCP(ctx context.Context, to netip.AddrPort, timeout time.Duration) (localStream, error) {
	d := net.Dialer{Timeout: timeout, Control: tuneControl, KeepAlive: noKeepalive}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp"+family(to.Addr()), to.String())
	if err != nil {
		return localStream{}, err
	}
	return localStream{c.(*net.TCPConn)}, nil
}

func dialLocalUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "udp"+family(to.Addr()), to.String())
}

// checkLoopback refuses everything but a loopback address with a port. What listens elsewhere would let the node's network
// into the tenant's tunnel, and what dials elsewhere would let the tunnel out.
func checkLoopback(at netip.AddrPort) (netip.AddrPort, error) {
	at = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	switch {
	case !at.IsValid():
		return at, fmt.Errorf("address is not set")
	case !at.Addr().IsLoopback():
		return at, fmt.Errorf("%s is not a loopback address", at)
	case at.Port() == 0:
		return at, fmt.Errorf("%s has no port", at)
	}
	return at, nil
}
