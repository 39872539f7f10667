package wireguard

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// node is an engine whose inside is a list of what arrived.
type node struct {
	*Engine
	priv key.Private
	addr netip.Addr
	got  chan []byte
}

func open(t testing.TB, i byte, change ...func(*Options)) *node {
	t.Helper()
	n := &node{priv: key.NewPrivate(), addr: netip.AddrFrom4([4]byte{10, 9, 0, i}), got: make(chan []byte, 1000)}
	o := Options{PrivateKey: n.priv, MTU: func() int { return 1420 }, Deliver: func(packets [][]byte, offset int) {
		for _, p := range packets {
			n.got <- bytes.Clone(p[offset:])
		}
	}}
	for _, f := range change {
		f(&o)
	}
	var err error
	if n.Engine, err = Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// as is n as a peer of another engine.
func (n *node) as() datapath.Peer {
	return datapath.Peer{PublicKey: n.priv.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(n.addr, 32)},
		Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.ListenPort())}
}

func know(t testing.TB, n *node, peers ...datapath.Peer) {
	t.Helper()
	if err := n.UpdatePeers(peers, nil); err != nil {
		t.Fatal(err)
	}
}

// pair makes two engines that know each other.
func pair(t testing.TB) (a, b *node) {
	t.Helper()
	a, b = open(t, 1), open(t, 2)
	know(t, a, b.as())
	know(t, b, a.as())
	return a, b
}

// packet is an IPv4 packet with a payload.
func packet(from, to netip.Addr, payload string) []byte {
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8] = 0x45, 64
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	src, dst := from.As4(), to.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	return append(b, payload...)
}

func (n *node) sendTo(to netip.Addr, payloads ...string) {
	b := n.NewBatch(MaxPackets * 1420)
	for _, p := range payloads {
		p := packet(n.addr, to, p)
		copy(b.Next(len(p)), p)
	}
	n.Send(to, b)
}

func (n *node) expect(t testing.TB, payload string) {
	t.Helper()
	select {
	case p := <-n.got:
		if string(p[20:]) != payload {
			t.Fatalf("got %q, want %q", p[20:], payload)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("nothing arrived; want %q", payload)
	}
}

func (n *node) expectNothing(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case p := <-n.got:
		t.Fatalf("got %q", p)
	case <-time.After(d):
	}
}

// eventually waits for what becomes true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within ten seconds: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// syncBuffer is a buffer that loggers on several goroutines may share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func logTo(w *syncBuffer) func(*Options) {
	return func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
}

func stats(t testing.TB, n *node) datapath.PeerStats {
	t.Helper()
	ps, err := n.Peers()
	if err != nil || len(ps) != 1 {
		t.Fatalf("%d peers, %v", len(ps), err)
	}
	return ps[0]
}

// racing says whether the race detector runs, under which pools forget at random.
func racing() bool {
	return testing.AllocsPerRun(1, func() {
		for range 200 {
			NewBatch(0, 1420).Free()
		}
	}) > 0
}
