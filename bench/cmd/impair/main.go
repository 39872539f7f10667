// Command impair relays datagrams to one server over a bad network; see package impair.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/tenantwire/tenantwire/bench/impair"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "impair:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listen := flag.String("listen", "", "address to listen on")
	to := flag.String("to", "", "address of the server")
	var p impair.Path
	flag.Float64Var(&p.Loss, "loss", 0, "part of the packets that vanish, each way")
	flag.DurationVar(&p.Delay, "delay", 0, "each way")
	flag.Float64Var(&p.Reorder, "reorder", 0, "part of the packets that come late")
	flag.DurationVar(&p.Late, "late", 0, "how late")
	flag.Float64Var(&p.Rate, "rate", 0, "bits a second of the bottleneck; 0: none")
	flag.IntVar(&p.Queue, "queue", 64<<10, "bytes that may wait before the bottleneck")
	flag.Parse()
	front, err := netip.ParseAddrPort(*listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	server, err := netip.ParseAddrPort(*to)
	if err != nil {
		return fmt.Errorf("-to: %w", err)
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(front))
	if err != nil {
		return err
	}
	_ = c.SetReadBuffer(4 << 20) // the relay itself should lose nothing
	return impair.Relay(ctx, c, server, p, p)
}
