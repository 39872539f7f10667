package device

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// node is a device with what its peers need to know of it.
type node struct {
	*Device
	priv   key.Private
	v4, v6 netip.Addr
}

func prefixes(t testing.TB, ss ...string) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	for _, s := range ss {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// open makes node i: 10.9.0.i and fd09::i.
func open(t testing.TB, i int) *node {
	t.Helper()
	n := &node{
		priv: key.NewPrivate(),
		v4:   netip.MustParseAddr(fmt.Sprintf("10.9.0.%d", i)),
		v6:   netip.MustParseAddr(fmt.Sprintf("fd09::%d", i)),
	}
	var err error
	n.Device, err = Open(Options{
		PrivateKey: n.priv,
		Interface: datapath.Interface{
			Addresses: []netip.Prefix{netip.PrefixFrom(n.v4, 24), netip.PrefixFrom(n.v6, 64)},
			MTU:       1420,
		},
		Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { within(t, 10*time.Second, "close", func() { _ = n.Close() }) })
	return n
}

func testLogger(t testing.TB) *slog.Logger {
	if os.Getenv("TENANTWIRE_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// within fails the test if f takes longer: a deadlock must not hang the suite.
func within(t testing.TB, d time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("%s took more than %s", what, d)
	}
}

// as is n as a peer of another device.
func (n *node) as() datapath.Peer {
	return datapath.Peer{
		PublicKey:  n.priv.Public(),
		Endpoint:   netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.ListenPort()),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(n.v4, 32), netip.PrefixFrom(n.v6, 128)},
	}
}

func update(t testing.TB, n *node, upsert ...datapath.Peer) {
	t.Helper()
	if err := n.UpdatePeers(upsert, nil); err != nil {
		t.Fatal(err)
	}
}

// pair makes two nodes that know each other.
func pair(t testing.TB) (a, b *node) {
	t.Helper()
	a, b = open(t, 1), open(t, 2)
	update(t, a, b.as())
	update(t, b, a.as())
	return a, b
}

func ctx(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return c
}

// accept gives every connection to n on the port to h and refuses the others.
func accept(n *node, port uint16, h func(datapath.Stream)) {
	n.HandleTCP(func(q datapath.TCPRequest) {
		if q.Local().Port() != port {
			q.Refuse()
			return
		}
		c, err := q.Accept()
		if err != nil {
			return
		}
		h(c)
	})
}

func dial(t testing.TB, from *node, to netip.Addr, port uint16) datapath.Stream {
	t.Helper()
	c, err := from.DialTCP(ctx(t, 20*time.Second), netip.AddrPortFrom(to, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func echo(c datapath.Stream) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
	_ = c.Close()
}

var _ net.Conn = datapath.Stream(nil)
