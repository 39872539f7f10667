package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

const (
	port    = 80
	workers = 64 // that open connections, or ask
	reply   = 100
)

// connections measures a gateway between an outside peer and a member with n connections.
func connections(ctx context.Context, o Options, n int, w io.Writer) error {
	g, err := start()
	if err != nil {
		return err
	}
	defer g.close()
	client, err1 := end(g, clientAddress, memberAddress, true)
	member, err2 := end(g, memberAddress, clientAddress, false)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	defer client.Close()
	defer member.Close()
	echo(member)
	before, err := g.cost()
	if err != nil {
		return err
	}
	held, took, err := open(ctx, client, n)
	defer func() {
		for _, c := range held {
			c.Abort()
		}
	}()
	if err != nil {
		return err
	}
	idle, err := g.idle(ctx, o.Time)
	if err != nil {
		return err
	}
	after, err := g.cost()
	if err != nil {
		return err
	}
	asked, err := ask(ctx, held)
	if err != nil {
		return err
	}
	last, err := g.cost()
	fmt.Fprintf(w, "%d\t%.0f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\n", n, float64(n)/took.Seconds(), float64(before.Now)/mebi, float64(after.Now)/mebi,
		idle, asked.Seconds(), (last.CPU - after.CPU).Seconds())
	return err
}

// end makes a device that knows the gateway, and that the gateway knows.
func end(g *gateway, own, reaches netip.Addr, outside bool) (*device.Device, error) {
	private := key.NewPrivate()
	d, err := device.Open(device.Options{PrivateKey: private, Interface: datapath.Interface{Addresses: []netip.Prefix{netip.PrefixFrom(own, 32)}, MTU: mtu}})
	if err != nil {
		return nil, err
	}
	_, err = g.add([]known{{PublicKey: private.Public(), Endpoint: netip.AddrPortFrom(loopback, d.ListenPort()), Address: own, Outside: outside}})
	return d, errors.Join(err, d.UpdatePeers([]datapath.Peer{{PublicKey: g.PublicKey, Endpoint: g.at(),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(reaches, 32), netip.PrefixFrom(gatewayAddress, 32)}}}, nil))
}

// echo says back what comes.
func echo(d *device.Device) {
	d.HandleTCP(func(r datapath.TCPRequest) {
		s, err := r.Accept()
		if err != nil {
			return
		}
		go func() {
			defer s.Abort()
			b := make([]byte, reply)
			for {
				if _, err := io.ReadFull(s, b); err != nil {
					return
				}
				if _, err := s.Write(b); err != nil {
					return
				}
			}
		}()
	})
}

// stream is a connection.
type stream interface {
	net.Conn
	Abort()
}

// open opens n connections.
func open(ctx context.Context, d *device.Device, n int) (held []stream, took time.Duration, err error) {
	var mu sync.Mutex
	begin := time.Now()
	err = each(n, func(int) error {
		dial, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		c, err := d.DialTCP(dial, netip.AddrPortFrom(memberAddress, port))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		held = append(held, c)
		return nil
	})
	return held, time.Since(begin), err
}

// ask has each connection ask once and wait for the answer.
func ask(ctx context.Context, held []stream) (time.Duration, error) {
	begin := time.Now()
	err := each(len(held), func(i int) error {
		c := held[i]
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, reply)
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(c, b)
		return errors.Join(err, ctx.Err())
	})
	return time.Since(begin), err
}

// each does n things, some of them at once, until one fails.
func each(n int, do func(i int) error) error {
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, workers)
	var failed atomic.Bool
	for w := range workers {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !failed.Load(); i = int(next.Add(1)) - 1 {
				if errs[w] = do(i); errs[w] != nil {
					failed.Store(true)
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
