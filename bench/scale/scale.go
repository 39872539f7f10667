// Package scale measures what a gateway costs that knows many peers, or passes on the packets of many connections: one Netstack gateway in a
// process of its own with one CPU, and around it, in this process, whoever talks to it. What is reported is the gateway's alone.
package scale

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"text/tabwriter"
	"time"

	"github.com/tenantwire/tenantwire/bench/noise"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Options say what is measured.
type Options struct {
	Peers       []int // how many there are, each time
	Connections []int
	Time        time.Duration // over which the CPU of doing nothing is taken
	Rounds      int           // of handshakes of all peers
}

const mtu = 1420

var (
	loopback       = netip.MustParseAddr("127.0.0.1")
	gatewayAddress = netip.MustParseAddr("10.9.0.254")
	memberAddress  = netip.MustParseAddr("10.9.0.1")
	clientAddress  = netip.MustParseAddr("10.9.0.2")
)

// Run measures and writes two tables.
func Run(ctx context.Context, o Options, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "peers\tknown after ms\tMiB\tMiB after handshakes\thandshakes/s\tlost\tCPU idle %")
	for _, n := range o.Peers {
		if err := peers(ctx, o, n, w); err != nil {
			return fmt.Errorf("%d peers: %w", n, err)
		}
	}
	fmt.Fprintln(w, "\nconnections\topened/s\tMiB before\tMiB\tCPU idle %\tall ask once, s\tCPU s of it")
	for _, n := range o.Connections {
		if err := connections(ctx, o, n, w); err != nil {
			return fmt.Errorf("%d connections: %w", n, err)
		}
	}
	return w.Flush()
}

const mebi = 1 << 20

// peers measures one gateway that knows n outside peers.
func peers(ctx context.Context, o Options, n int, w io.Writer) error {
	g, err := start()
	if err != nil {
		return err
	}
	defer g.close()
	who, all, err := population(g, n)
	if err != nil {
		return err
	}
	took, err := g.add(all)
	if err != nil {
		return err
	}
	before, err := g.cost()
	if err != nil {
		return err
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(g.at()))
	if err != nil {
		return err
	}
	defer conn.Close()
	a, err := noise.Flood(ctx, conn, who, o.Rounds)
	if err != nil {
		return err
	}
	rate := 0.0
	if n > 0 {
		rate = a.PerSecond()
	}
	idle, err := g.idle(ctx, o.Time)
	if err != nil {
		return err
	}
	after, err := g.cost()
	fmt.Fprintf(w, "%d\t%.1f\t%.1f\t%.1f\t%.0f\t%d\t%.2f\n", n, took.Seconds()*1000, float64(before.Now)/mebi, float64(after.Now)/mebi, rate, a.Lost+a.Cookies, idle)
	return err
}

// population makes up outside peers of a gateway.
func population(g *gateway, n int) (who []*noise.Initiator, all []known, err error) {
	for i := range n {
		k := key.NewPrivate()
		p, err := noise.NewInitiator(k.ECDH().Bytes(), g.PublicKey[:])
		if err != nil {
			return nil, nil, err
		}
		who = append(who, p)
		all = append(all, known{PublicKey: k.Public(), Outside: true, Address: netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})})
	}
	return who, all, nil
}

// idle is percent of a CPU over a time, after a second to come to rest.
func (g *gateway) idle(ctx context.Context, over time.Duration) (float64, error) {
	if err := wait(ctx, time.Second); err != nil {
		return 0, err
	}
	before, err := g.cost()
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, over); err != nil {
		return 0, err
	}
	after, err := g.cost()
	return 100 * (after.CPU - before.CPU).Seconds() / over.Seconds(), err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
