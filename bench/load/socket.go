package load

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// control makes a socket's TCP that of most hosts, whatever this one prefers. Where it is not to be had, all contenders go
// without alike.
func control(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
}

// Listen is net.Listen for TCP; accepted connections are as the listener's socket.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	l := net.ListenConfig{Control: control}
	return l.Listen(ctx, "tcp", addr)
}
