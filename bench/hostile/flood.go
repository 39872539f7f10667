package hostile

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/bench/noise"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// flooder is the hostile peer.
type flooder struct {
	device  *device.Device
	inner   netip.Addr
	private key.Private
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func (f *flooder) stop() {
	if f.cancel != nil {
		f.cancel()
		f.running.Wait()
		f.cancel = nil
	}
}

// What a peer may flood with.
const (
	floodUDP         = "udp"         // datagrams, as many to a message as fit: what costs the sender least
	floodSingle      = "single"      // datagrams, each a message: what costs the receiver most
	floodBulk        = "bulk"        // no flood: a TCP stream as fast as it goes
	floodHandshakes  = "handshakes"  // initiations
	floodConnections = "connections" // which are held, as many as there may be
)

// Floods are all of them.
var Floods = []string{floodUDP, floodSingle, floodBulk, floodHandshakes, floodConnections}

func (f *flooder) start(c command) error {
	if c.Flood == "" {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	switch c.Flood {
	case floodUDP:
		f.running.Go(func() { f.packets(ctx, c.To.Addr(), 45) })
	case floodSingle:
		f.running.Go(func() { f.packets(ctx, c.To.Addr(), 1) })
	case floodBulk:
		f.running.Go(func() { f.bulk(ctx, netip.AddrPortFrom(c.To.Addr(), bulkPort)) })
	case floodHandshakes:
		return f.handshakes(ctx, c)
	case floodConnections:
		for range 64 {
			f.running.Go(func() { f.connections(ctx, c.To) })
		}
	default:
		return fmt.Errorf("no flood %q", c.Flood)
	}
	return nil
}

// packets sends one message of so many datagrams after the other, to a port where nobody is.
func (f *flooder) packets(ctx context.Context, to netip.Addr, count int) {
	const size = 1400
	inner := datagram(f.inner, to, size)
	for ctx.Err() == nil {
		b := f.device.NewBatch(count * mtu)
		for range count {
			copy(b.Next(size), inner)
		}
		f.device.Send(to, b)
	}
}

// bulk keeps a stream going.
func (f *flooder) bulk(ctx context.Context, to netip.AddrPort) {
	chunk := make([]byte, 256<<10)
	for ctx.Err() == nil {
		c, err := f.device.DialTCP(ctx, to)
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, c.Abort)
		for err == nil {
			_, err = c.Write(chunk)
		}
		stop()
		c.Abort()
	}
}

// handshakes sends initiations, genuine ones and then the same again, with the peer's own key.
func (f *flooder) handshakes(ctx context.Context, c command) error {
	i, err := noise.NewInitiator(f.private.ECDH().Bytes(), c.Through[:])
	if err != nil {
		return err
	}
	var all [][]byte
	for n := range 2000 {
		m, err := i.Initiation(uint32(n), time.Now().Add(time.Duration(n)*20*time.Millisecond))
		if err != nil {
			return err
		}
		all = append(all, m)
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(c.At))
	if err != nil {
		return err
	}
	f.running.Go(func() {
		defer conn.Close()
		for n := 0; ctx.Err() == nil; n++ {
			_, _ = conn.Write(all[n%len(all)]) // what is lost is lost
		}
	})
	return nil
}

// connections opens as many as it gets and holds them.
func (f *flooder) connections(ctx context.Context, to netip.AddrPort) {
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for ctx.Err() == nil {
		dial, cancel := context.WithTimeout(ctx, 2*time.Second)
		c, err := f.device.DialTCP(dial, to)
		cancel()
		if err == nil {
			held = append(held, c)
		}
	}
}
