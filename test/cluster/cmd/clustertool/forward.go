package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// forward accepts in the namespace that it was started in and dials inside another one.
func forward(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("forward", flag.ExitOnError)
	listen := fs.String("listen", "127.0.0.1:16443", "loopback address to listen on; another port if it is taken")
	strict := fs.Bool("strict", false, "fail if the port is taken")
	addressFile := fs.String("address-file", "", "file to write the listening address to")
	netns := fs.String("netns", "", "network namespace file to dial in")
	to := fs.String("to", "", "address to dial in that namespace")
	_ = fs.Parse(args)

	target, err := netip.ParseAddrPort(*to)
	if err != nil {
		return fmt.Errorf("parse -to: %w", err)
	}
	ln, err := listenNear(*listen, *strict)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	if *addressFile != "" {
		if err := os.WriteFile(*addressFile, []byte(ln.Addr().String()), 0o644); err != nil {
			return err
		}
	}
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go relay(c, *netns, target)
	}
}

func listenNear(address string, strict bool) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if strict || !errors.Is(err, unix.EADDRINUSE) {
		return ln, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return net.Listen("tcp", net.JoinHostPort(host, "0"))
}

func relay(c net.Conn, netns string, target netip.AddrPort) {
	defer func() { _ = c.Close() }()
	var u net.Conn
	err := inNetns(netns, func() (err error) {
		u, err = dial(target)
		return err
	})
	if err != nil {
		return // the API server is down: the client sees a closed connection, as it would from a node
	}
	defer func() { _ = u.Close() }()
	go func() {
		_, _ = io.Copy(u, c)
		_ = u.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, u)
}

// dial makes the socket by hand: net.Dial may make it on another thread, hence in another namespace.
func dial(to netip.AddrPort) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "dial")
	defer func() { _ = f.Close() }()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}
