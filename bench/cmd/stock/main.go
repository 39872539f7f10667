// Command stock is the least program that puts upstream wireguard-go on upstream's netstack behind loopback ports: a listener,
// a dial into the tunnel, io.Copy both ways, as the usual userspace proxies do. It is what we compare with, so it is kept plain.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// config is the file of -config.
type config struct {
	PrivateKey string
	ListenPort uint16
	Address    netip.Addr
	MTU        int
	Peers      []struct {
		PublicKey  string
		Endpoint   netip.AddrPort // the zero value: it will come to us
		AllowedIPs []netip.Prefix
	}
	Forwards []struct{ Listen, Target netip.AddrPort } // loopback -> tunnel
	Expose   []struct {                                // tunnel -> loopback
		Port uint16
		To   netip.AddrPort
	}
}

func main() {
	path := flag.String("config", "", "file to run from")
	flag.Parse()
	if err := run(*path); err != nil {
		log.Fatalln("stock:", err)
	}
}

func run(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c config
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	uapi, err := c.uapi()
	if err != nil {
		return err
	}
	tun, n, err := netstack.CreateNetTUN([]netip.Addr{c.Address}, nil, c.MTU)
	if err != nil {
		return err
	}
	d := device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	defer d.Close()
	if err := d.IpcSet(uapi); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	for _, f := range c.Forwards {
		l, err := net.Listen("tcp", f.Listen.String())
		if err != nil {
			return err
		}
		go accept(l, func() (net.Conn, error) { return n.DialContextTCPAddrPort(context.Background(), f.Target) })
	}
	for _, e := range c.Expose {
		l, err := n.ListenTCPAddrPort(netip.AddrPortFrom(c.Address, e.Port))
		if err != nil {
			return err
		}
		go accept(l, func() (net.Conn, error) { return net.Dial("tcp", e.To.String()) })
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
	return nil
}

// uapi writes the configuration protocol from typed values only.
func (c *config) uapi() (string, error) {
	k, err := key.ParsePrivate(c.PrivateKey)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "private_key=%s\nlisten_port=%d\n", k.Hex(), c.ListenPort)
	for _, p := range c.Peers {
		pub, err := key.ParsePublic(p.PublicKey)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "public_key=%s\n", pub.Hex())
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%s\n", a)
		}
	}
	return b.String(), nil
}

func accept(l net.Listener, dial func() (net.Conn, error)) {
	for {
		c, err := l.Accept()
		if err != nil {
			log.Println("stock: accept:", err)
			return
		}
		go relay(c, dial)
	}
}

func relay(c net.Conn, dial func() (net.Conn, error)) {
	defer c.Close()
	o, err := dial()
	if err != nil {
		return
	}
	defer o.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, o}, {o, c}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0])
			// Neither end's half-close is worth more here than that the other way ends too: stock's netstack often loses the rest.
			_, _ = way[0].Close(), way[1].Close()
		})
	}
	both.Wait()
}
