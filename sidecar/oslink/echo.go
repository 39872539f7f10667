//go:build linux

package oslink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

var _ datapath.Echoer = (*Link)(nil)

// Types of ICMP requests.
const (
	echoRequest4 = 8
	echoRequest6 = 128
)

// Echo asks for an ICMP echo; see datapath.Echoer. It takes no privilege, but the namespace has to let the process's group have such
// sockets (net.ipv4.ping_group_range).
func (l *Link) Echo(ctx context.Context, to netip.Addr, size int) error {
	to = to.Unmap()
	headers, kind := datapath.EchoHeaders4, byte(echoRequest4)
	if to.Is6() {
		headers, kind = datapath.EchoHeaders6, echoRequest6
	}
	if size < headers {
		return fmt.Errorf("ask %s for an echo: %d bytes are less than the headers", to, size)
	}
	c, err := l.dialEcho(to)
	if err != nil {
		return fmt.Errorf("ask %s for an echo: %w", to, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := make([]byte, 8+size-headers) // the kernel fills in identifier and checksum
	request[0] = kind
	if _, err = c.Write(request); err == nil {
		_, err = c.Read(make([]byte, len(request)))
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// dialEcho makes a socket for echo requests to one address.
func (l *Link) dialEcho(to netip.Addr) (net.Conn, error) {
	const discard = 9 // no port is sent; sourceFor wants one
	from, err := l.sourceFor(netip.AddrPortFrom(to, discard))
	if err != nil {
		return nil, err
	}
	fd, err := l.newEchoSocket(to.Is4())
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "echo")
	defer f.Close() // FileConn has its own
	if err := errors.Join(unix.Bind(fd, sockaddr(from)), unix.Connect(fd, sockaddr(to))); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}

// newEchoSocket makes a socket for echo requests, held to the interface, that never sends fragments.
func (l *Link) newEchoSocket(four bool) (fd int, err error) {
	family, protocol, level, option, never := unix.AF_INET6, unix.IPPROTO_ICMPV6, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	if four {
		family, protocol, level, option, never = unix.AF_INET, unix.IPPROTO_ICMP, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	}
	if fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = unix.BindToDevice(fd, l.name); err != nil {
		err = os.NewSyscallError("bind to interface "+l.name, err)
	} else if err = unix.SetsockoptInt(fd, level, option, never); err != nil {
		err = os.NewSyscallError("setsockopt", err)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}
