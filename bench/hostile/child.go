package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/bench/noise"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// command is a line that a child reads; it answers each with a line of its drops.
type command struct {
	Address netip.Prefix // first of all: its inner address
	Peers   []peer       // to know besides
	Limits  *datapath.Limits
	Flood   string     // udp, handshakes, connections; empty: stop
	Through key.Public // the gateway to flood
	At      netip.AddrPort
	To      netip.AddrPort // behind it
}

// peer is a datapath's, without what has no form in JSON.
type peer struct {
	PublicKey  key.Public
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix
	Outside    bool
}

func (c command) peers() (out []datapath.Peer) {
	for _, p := range c.Peers {
		out = append(out, p.datapath())
	}
	return out
}

func (p peer) datapath() datapath.Peer {
	return datapath.Peer{PublicKey: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs, Outside: p.Outside, Keepalive: 25 * time.Second}
}

// hello is the first line that a child writes.
type hello struct {
	PublicKey key.Public
	Port      uint16
}

// Child is a gateway, or a peer that floods, until in ends. Either is a process of its own, with one CPU, as sidecars are.
func Child(role string, in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	private, answers := key.NewPrivate(), json.NewEncoder(out)
	var d *device.Device
	f := flooder{private: private}
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		if d == nil {
			var err error
			if d, err = device.Open(device.Options{PrivateKey: private, Interface: datapath.Interface{
				Addresses: []netip.Prefix{c.Address}, MTU: mtu, Hub: role == "hub"}}); err != nil {
				return err
			}
			defer d.Close()
			f.device, f.inner = d, c.Address.Addr()
			if err := answers.Encode(hello{private.Public(), d.ListenPort()}); err != nil {
				return err
			}
			continue
		}
		if err := d.UpdatePeers(c.peers(), nil); err != nil {
			return err
		}
		if c.Limits != nil {
			d.SetLimits(*c.Limits)
		}
		f.stop()
		if err := f.start(c); err != nil {
			return err
		}
		if err := answers.Encode(d.Drops()); err != nil {
			return err
		}
	}
	f.stop()
	return lines.Err()
}

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

func (f *flooder) start(c command) error {
	if c.Flood == "" {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	switch c.Flood {
	case "udp":
		f.running.Go(func() { f.packets(ctx, c.To.Addr()) })
	case "handshakes":
		return f.handshakes(ctx, c)
	case "connections":
		for range 64 {
			f.running.Go(func() { f.connections(ctx, c.To) })
		}
	default:
		return fmt.Errorf("no flood %q", c.Flood)
	}
	return nil
}

// packets sends what fills one message after the other, to a port where nobody is.
func (f *flooder) packets(ctx context.Context, to netip.Addr) {
	const size, count = 1400, 45
	inner := datagram(f.inner, to, size)
	for ctx.Err() == nil {
		b := f.device.NewBatch(count * mtu)
		for range count {
			copy(b.Next(size), inner)
		}
		f.device.Send(to, b)
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
