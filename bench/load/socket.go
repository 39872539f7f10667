package load

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/proxy"
	"golang.org/x/sys/unix"
)

// control makes a socket's TCP that of most hosts, whatever this one prefers. Where it is not to be had, all contenders go
// without alike.
func control(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
}

// connect opens a connection within limit, through a proxy where the address says so.
func connect(ctx context.Context, addr string, limit time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: limit, Control: control}
	way, ok := strings.CutPrefix(addr, "socks5://")
	if !ok {
		return d.DialContext(ctx, "tcp", addr)
	}
	at, to, _ := strings.Cut(way, "/")
	c, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := ask(ctx, c, at, to); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// ask has the SOCKS5 proxy at the other end of c connect it on. The library would dial itself and wrap what it gets.
func ask(ctx context.Context, c net.Conn, at, to string) error {
	d, err := proxy.SOCKS5("tcp", at, nil, nil)
	if err != nil {
		return err
	}
	on, ok := d.(interface {
		DialWithConn(ctx context.Context, c net.Conn, network, address string) (net.Addr, error)
	})
	if !ok {
		return errors.ErrUnsupported
	}
	_, err = on.DialWithConn(ctx, c, "tcp", to)
	return err
}

// Listen is net.Listen for TCP; accepted connections are as the listener's socket.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	l := net.ListenConfig{Control: control}
	return l.Listen(ctx, "tcp", addr)
}
