package device

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	refconn "golang.zx2c4.com/wireguard/conn"
	ref "golang.zx2c4.com/wireguard/device"
	refstack "golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// reference opens upstream's implementation at 10.9.0.3 and fd09::3 as a peer of n.
func reference(t testing.TB, n *node) *refstack.Net {
	t.Helper()
	addrs := []netip.Addr{netip.MustParseAddr("10.9.0.3"), netip.MustParseAddr("fd09::3")}
	dev, stack, err := refstack.CreateNetTUN(addrs, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	priv, psk := key.NewPrivate(), key.NewPreshared()
	d := ref.NewDevice(dev, refconn.NewDefaultBind(), ref.NewLogger(ref.LogLevelSilent, ""))
	t.Cleanup(d.Close)
	text := fmt.Sprintf("private_key=%s\npublic_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=%s/32\nallowed_ip=%s/128\n",
		priv.Hex(), n.priv.Public().Hex(), psk.Hex(), n.ListenPort(), n.v4, n.v6)
	if err := d.IpcSet(text); err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	state, err := d.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	var port uint16
	for line := range strings.Lines(state) {
		_, _ = fmt.Sscanf(line, "listen_port=%d", &port)
	}
	update(t, n, datapath.Peer{
		PublicKey: priv.Public(), PresharedKey: psk,
		Endpoint:   netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port),
		AllowedIPs: prefixes(t, "10.9.0.3/32", "fd09::3/128"),
	})
	return stack
}

// TestInterop carries bytes between us and upstream's implementation, whichever dials.
func TestInterop(t *testing.T) {
	a := open(t, 1)
	stack := reference(t, a)
	accept(a, 81, echo)
	echoUDP(a)
	want := random(4<<20, 5)
	families(t, a, func(t *testing.T, ours netip.Addr) {
		theirs, network := netip.MustParseAddr("10.9.0.3"), "ping4"
		if ours.Is6() {
			theirs, network = netip.MustParseAddr("fd09::3"), "ping6"
		}
		t.Run("we dial", func(t *testing.T) {
			l, err := stack.ListenTCPAddrPort(netip.AddrPortFrom(theirs, 80))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				if c, err := l.Accept(); err == nil {
					_, _ = io.Copy(c, c)
					_ = c.Close()
				}
			}()
			roundTrip(t, dial(t, a, theirs, 80), want)
		})
		t.Run("they dial", func(t *testing.T) {
			c, err := stack.DialContextTCPAddrPort(ctx(t, 10*time.Second), netip.AddrPortFrom(ours, 81))
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, c, want)
		})
		t.Run("datagrams", func(t *testing.T) { referenceDatagrams(t, stack, ours, want) })
		t.Run("ping", func(t *testing.T) {
			for range 20 { // upstream's connection never sees an answer that is there before it waits for one
				c, err := stack.Dial(network, ours.String())
				if err != nil {
					t.Fatal(err)
				}
				err = ping(c, ours.Is6())
				_ = c.Close()
				if err == nil {
					return
				}
				t.Log(err)
			}
			t.Error("no ping is answered")
		})
	})
}

func referenceDatagrams(t *testing.T, stack *refstack.Net, to netip.Addr, want []byte) {
	t.Helper()
	c, err := stack.DialUDPAddrPort(netip.AddrPort{}, netip.AddrPortFrom(to, 53))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	for _, n := range []int{0, 1200, 8 << 10} {
		_, _ = c.Write(want[:n])
		got := make([]byte, 65535)
		if m, err := c.Read(got); err != nil || !bytes.Equal(got[:m], want[:n]) {
			t.Fatalf("%d bytes came back of %d: %v", m, n, err)
		}
	}
}

// ping has one request answered.
func ping(c net.Conn, six bool) error {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	request := []byte{8, 0, 0, 0, 0, 0, 0, 1, 'p', 'i', 'n', 'g'}
	if six {
		request[0] = 128
	} else {
		var sum uint32
		for i := 0; i < len(request); i += 2 {
			sum += uint32(request[i])<<8 | uint32(request[i+1])
		}
		sum = ^(sum + sum>>16)
		request[2], request[3] = byte(sum>>8), byte(sum)
	}
	if _, err := c.Write(request); err != nil {
		return err
	}
	got := make([]byte, 1500)
	n, err := c.Read(got)
	if err == nil && !bytes.HasSuffix(got[:n], []byte("ping")) {
		return fmt.Errorf("got %q", got[:n])
	}
	return err
}

// roundTrip sends want to an echo and expects it back.
func roundTrip(t *testing.T, c interface {
	net.Conn
	CloseWrite() error
}, want []byte) {
	t.Helper()
	defer c.Close()
	go func() { _, _ = c.Write(want); _ = c.CloseWrite() }()
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back of %d: %v", len(got), len(want), err)
	}
}
