package netstack_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	refconn "golang.zx2c4.com/wireguard/conn"
	ref "golang.zx2c4.com/wireguard/device"
	refstack "golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// BenchmarkStream measures one TCP stream from memory to memory, both ends in this process, over loopback UDP, encrypted:
// our data plane, and upstream's engine with upstream's netstack. Compare within one run.
//
//	go test -run '^$' -bench Stream -benchtime 5s ./sidecar/netstack
func BenchmarkStream(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run(fmt.Sprintf("ours/%d", streams), func(b *testing.B) { benchStreams(b, ours(b), streams) })
		b.Run(fmt.Sprintf("stock/%d", streams), func(b *testing.B) { benchStreams(b, stock(b), streams) })
	}
}

type open func() (from, to net.Conn)

// benchStreams sends b.N chunks, spread over the streams.
func benchStreams(b *testing.B, dial open, streams int) {
	const chunk = 45 * 1340
	b.SetBytes(chunk)
	done := make(chan error, streams)
	type ends struct{ from, to net.Conn }
	var conns []ends
	for range streams {
		from, to := dial()
		conns = append(conns, ends{from, to})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i, c := range conns {
		n := b.N / streams
		if i == 0 {
			n += b.N % streams
		}
		go func() {
			buf := make([]byte, chunk)
			for range n {
				if _, err := c.from.Write(buf); err != nil {
					return
				}
			}
		}()
		go func() {
			buf := make([]byte, 256<<10)
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c.to, int64(n)*chunk), buf)
			done <- err
		}()
	}
	for range streams {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	for _, c := range conns {
		_, _ = c.from.Close(), c.to.Close()
	}
}

func ours(b *testing.B) open {
	var devs [2]*device.Device
	var keys [2]key.Private
	for i := range devs {
		keys[i] = key.NewPrivate()
		d, err := device.Open(device.Options{PrivateKey: keys[i], Interface: datapath.Interface{
			MTU: 1420, Addresses: []netip.Prefix{netip.PrefixFrom(inner(i), 32)},
		}})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = d.Close() })
		devs[i] = d
	}
	for i := range devs {
		o := 1 - i
		err := devs[i].UpdatePeers([]datapath.Peer{{
			PublicKey: keys[o].Public(), Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), devs[o].ListenPort()),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(inner(o), 32)},
		}}, nil)
		if err != nil {
			b.Fatal(err)
		}
	}
	accepted := make(chan net.Conn, 1)
	devs[1].HandleTCP(func(q datapath.TCPRequest) {
		if c, err := q.Accept(); err == nil {
			accepted <- c
		}
	})
	return func() (net.Conn, net.Conn) {
		c, err := devs[0].DialTCP(context.Background(), netip.AddrPortFrom(inner(1), 80))
		if err != nil {
			b.Fatal(err)
		}
		return c, <-accepted
	}
}

func inner(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 1)}) }

func stock(b *testing.B) open {
	var nets [2]*refstack.Net
	var devs [2]*ref.Device
	var keys [2]key.Private
	var ports [2]uint16
	for i := range devs {
		keys[i] = key.NewPrivate()
		dev, n, err := refstack.CreateNetTUN([]netip.Addr{inner(i)}, nil, 1420)
		if err != nil {
			b.Fatal(err)
		}
		nets[i], devs[i] = n, ref.NewDevice(dev, refconn.NewDefaultBind(), ref.NewLogger(ref.LogLevelSilent, ""))
		if err := devs[i].IpcSet("private_key=" + keys[i].Hex() + "\n"); err != nil {
			b.Fatal(err)
		}
		if err := devs[i].Up(); err != nil {
			b.Fatal(err)
		}
		state, _ := devs[i].IpcGet()
		for line := range strings.Lines(state) {
			_, _ = fmt.Sscanf(line, "listen_port=%d", &ports[i])
		}
	}
	for i := range devs {
		o := 1 - i
		text := fmt.Sprintf("public_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=%s/32\n", keys[o].Public().Hex(), ports[o], inner(o))
		if err := devs[i].IpcSet(text); err != nil {
			b.Fatal(err)
		}
	}
	l, err := nets[1].ListenTCPAddrPort(netip.AddrPortFrom(inner(1), 80))
	if err != nil {
		b.Fatal(err)
	}
	return func() (net.Conn, net.Conn) {
		c, err := nets[0].DialContextTCPAddrPort(context.Background(), netip.AddrPortFrom(inner(1), 80))
		if err != nil {
			b.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		return c, s
	}
}
