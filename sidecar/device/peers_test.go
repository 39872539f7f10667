package device

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailscale/wireguard-go/conn"
	wg "github.com/tailscale/wireguard-go/device"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// numbered streams consecutive numbers from a to b until stop, and says how many arrived and whether each followed the last.
func numbered(t *testing.T, a, b *node) (count *atomic.Uint64, stop func()) {
	t.Helper()
	count = new(atomic.Uint64)
	finished := make(chan struct{})
	accept(b, 80, func(c datapath.Stream) {
		defer close(finished)
		buf := make([]byte, 8)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("stream broke after %d numbers: %v", count.Load(), err)
				}
				return
			}
			if n := binary.BigEndian.Uint64(buf); n != count.Load() {
				t.Errorf("got number %d, want %d", n, count.Load())
				return
			}
			count.Add(1)
		}
	})
	c := dial(t, a, b.v4, 80)
	var done atomic.Bool
	go func() {
		block := make([]byte, 8<<10)
		for n := uint64(0); !done.Load(); {
			for i := 0; i < len(block); i += 8 {
				binary.BigEndian.PutUint64(block[i:], n)
				n++
			}
			if _, err := c.Write(block); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
		_ = c.CloseWrite()
	}()
	return count, func() {
		done.Store(true)
		within(t, 20*time.Second, "end of stream", func() { <-finished })
	}
}

// TestOtherPeersAreUndisturbed changes everything around a running transfer.
func TestOtherPeersAreUndisturbed(t *testing.T) {
	a, b := pair(t)
	c := open(t, 3)
	update(t, c, a.as())
	count, stop := numbered(t, a, b)
	psk := key.NewPreshared()
	for i := range 20 {
		extra := c.as()
		extra.Keepalive = time.Duration(i) * time.Second
		if i%2 == 1 {
			extra.PresharedKey = psk
			extra.AllowedIPs = append(extra.AllowedIPs, netip.MustParsePrefix("10.77.0.0/16"))
		}
		update(t, a, extra, b.as()) // b is named, but unchanged
		others := make([]datapath.Peer, 50)
		for j := range others {
			others[j] = datapath.Peer{PublicKey: key.NewPrivate().Public()}
		}
		update(t, a, others...)
		gone := []key.Public{extra.PublicKey}
		for _, p := range others {
			gone = append(gone, p.PublicKey)
		}
		before := count.Load()
		if err := a.UpdatePeers(nil, gone); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); count.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the stream stopped at %d in round %d", before, i)
			}
		}
	}
	stop()
	peers, err := a.Peers()
	if err != nil || len(peers) != 1 || peers[0].PublicKey != b.priv.Public() {
		t.Fatalf("peers afterwards: %v, %v", peers, err)
	}
}

// TestTakeover gives a peer's addresses to another peer in one delta, as a key rotation does.
func TestTakeover(t *testing.T) {
	a, b := pair(t)
	next := open(t, 2) // the same addresses, another key
	update(t, next, a.as())
	accept(next, 80, echo)
	if err := a.UpdatePeers([]datapath.Peer{next.as()}, []key.Public{b.priv.Public()}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, a, next.v4, 80)
	_, _ = c.Write([]byte("hello"))
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestRefusedDeltasChangeNothing(t *testing.T) {
	a, b := pair(t)
	other := datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: prefixes(t, "10.1.0.0/16")}
	with := func(f func(*datapath.Peer)) []datapath.Peer {
		p := other
		f(&p)
		return []datapath.Peer{other, p}[1:]
	}
	for name, tc := range map[string]struct {
		upsert []datapath.Peer
		remove []key.Public
		want   string
	}{
		"own key":         {upsert: with(func(p *datapath.Peer) { p.PublicKey = a.priv.Public() }), want: "itself"},
		"no key":          {upsert: with(func(p *datapath.Peer) { p.PublicKey = key.Public{} }), want: "no public key"},
		"named twice":     {upsert: []datapath.Peer{other, other}, want: "twice"},
		"in both":         {upsert: []datapath.Peer{other}, remove: []key.Public{other.PublicKey}, want: "twice"},
		"stolen address":  {upsert: with(func(p *datapath.Peer) { p.AllowedIPs = b.as().AllowedIPs }), want: b.priv.Public().String()},
		"mapped address":  {upsert: with(func(p *datapath.Peer) { p.AllowedIPs = prefixes(t, "::ffff:10.0.0.0/104") }), want: "allowed IP"},
		"no prefix":       {upsert: with(func(p *datapath.Peer) { p.AllowedIPs = []netip.Prefix{{}} }), want: "allowed IP"},
		"endpoint port":   {upsert: with(func(p *datapath.Peer) { p.Endpoint = netip.MustParseAddrPort("192.0.2.1:0") }), want: "endpoint"},
		"endpoint any":    {upsert: with(func(p *datapath.Peer) { p.Endpoint = netip.MustParseAddrPort("0.0.0.0:1") }), want: "endpoint"},
		"endpoint group":  {upsert: with(func(p *datapath.Peer) { p.Endpoint = netip.MustParseAddrPort("[ff02::1]:1") }), want: "endpoint"},
		"keepalive < 0":   {upsert: with(func(p *datapath.Peer) { p.Keepalive = -time.Second }), want: "keepalive"},
		"keepalive > max": {upsert: with(func(p *datapath.Peer) { p.Keepalive = 65536 * time.Second }), want: "keepalive"},
		"keepalive ms":    {upsert: with(func(p *datapath.Peer) { p.Keepalive = time.Millisecond }), want: "keepalive"},
	} {
		t.Run(name, func(t *testing.T) {
			// A good peer beside the bad one must not be applied either.
			good := datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: prefixes(t, "10.250.0.0/16")}
			err := a.UpdatePeers(append([]datapath.Peer{good}, tc.upsert...), tc.remove)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error with %q", err, tc.want)
			}
			peers, err := a.Peers()
			if err != nil || len(peers) != 1 || peers[0].PublicKey != b.priv.Public() {
				t.Fatalf("peers afterwards: %v, %v", peers, err)
			}
		})
	}
}

func TestPresharedKey(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	psk := key.NewPreshared()
	toB, toA := b.as(), a.as()
	toB.PresharedKey, toA.PresharedKey = psk, psk
	update(t, a, toB)
	update(t, b, toA)
	accept(b, 80, echo)
	c := dial(t, a, b.v4, 80)
	_, _ = c.Write([]byte("hello"))
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestWrongPresharedKeyGetsNothing(t *testing.T) {
	for name, theirs := range map[string]key.Preshared{"another": key.NewPreshared(), "none": {}} {
		t.Run(name, func(t *testing.T) {
			a, b := open(t, 1), open(t, 2)
			toB, toA := b.as(), a.as()
			toB.PresharedKey, toA.PresharedKey = key.NewPreshared(), theirs
			update(t, a, toB)
			update(t, b, toA)
			b.HandleTCP(func(q datapath.TCPRequest) { t.Errorf("request from %s", q.Remote()); q.Refuse() })
			c, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			if _, err := a.DialTCP(c, netip.AddrPortFrom(b.v4, 80)); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v, want a timeout", err)
			}
			if n := b.Stats().RxPackets; n != 0 {
				t.Fatalf("%d packets got through", n)
			}
		})
	}
}

// TestRoaming restarts a peer on another port with the same key: who listens learns the new endpoint, and a delta that
// repeats the old one does not undo that.
func TestRoaming(t *testing.T) {
	a, b := pair(t)
	accept(b, 80, echo)
	old := a.as()
	say := func(from *node) {
		t.Helper()
		c := dial(t, from, b.v4, 80)
		_, _ = c.Write([]byte("here"))
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "here" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	say(a)
	_ = a.Close()
	moved := &node{priv: a.priv, v4: a.v4, v6: a.v6}
	var err error
	moved.Device, err = Open(Options{PrivateKey: a.priv, Interface: datapath.Interface{
		Addresses: []netip.Prefix{netip.PrefixFrom(a.v4, 24)}, MTU: 1420,
	}, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer moved.Close()
	update(t, moved, b.as())
	time.Sleep(50 * time.Millisecond) // WireGuard takes one handshake of a peer in 20 ms
	say(moved)
	update(t, b, old)
	peers, err := b.Peers()
	if err != nil || len(peers) != 1 || peers[0].Endpoint.Port() != moved.ListenPort() {
		t.Fatalf("peers %+v, %v; want port %d", peers, err, moved.ListenPort())
	}
	say(moved)
}

func TestCounters(t *testing.T) {
	a, b := pair(t)
	before, err := a.Peers()
	if err != nil || len(before) != 1 || !before[0].LastHandshake.IsZero() || before[0].RxBytes != 0 {
		t.Fatalf("before: %+v, %v", before, err)
	}
	accept(b, 80, echo)
	c := dial(t, a, b.v4, 80)
	want := random(1<<20, 1)
	go func() { _, _ = c.Write(want); _ = c.CloseWrite() }()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	after, err := a.Peers()
	if err != nil || len(after) != 1 {
		t.Fatal(after, err)
	}
	p := after[0]
	if p.RxBytes < 1<<20 || p.TxBytes < 1<<20 || time.Since(p.LastHandshake) > time.Minute || len(p.AllowedIPs) != 2 ||
		p.Endpoint.Port() != b.ListenPort() {
		t.Fatalf("after: %+v", p)
	}
}

// TestSpoofedSourceIsDropped lets a use an inner address that b has not allowed it.
func TestSpoofedSourceIsDropped(t *testing.T) {
	a, b := pair(t)
	accept(b, 80, echo)
	_ = dial(t, a, b.v4, 80) // the tunnel works
	err := a.SetInterface(datapath.Interface{Addresses: prefixes(t, "10.9.0.66/24"), MTU: 1420})
	if err != nil {
		t.Fatal(err)
	}
	before := b.Stats().RxPackets
	time.Sleep(20 * time.Millisecond) // resets of the old address are under way
	b.HandleTCP(func(q datapath.TCPRequest) { t.Errorf("request from %s", q.Remote()); q.Refuse() })
	c, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := a.DialTCP(c, netip.AddrPortFrom(b.v4, 80)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	if n := b.Stats().RxPackets; n > before+2 {
		t.Fatalf("%d packets got through", n-before)
	}
}

func TestSetInterfaceKeepsConnections(t *testing.T) {
	a, b := pair(t)
	count, stop := numbered(t, a, b)
	for _, mtu := range []int{1280, 1420, 1300} {
		i := datapath.Interface{Addresses: append(prefixes(t, "10.9.0.200/24"), netip.PrefixFrom(a.v4, 24)), MTU: mtu}
		if err := a.SetInterface(i); err != nil {
			t.Fatal(err)
		}
		for before, end := count.Load(), time.Now().Add(5*time.Second); count.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the stream stopped at MTU %d", mtu)
			}
		}
	}
	stop()
	for _, bad := range []datapath.Interface{
		{MTU: 1279}, {MTU: 65456},
		{MTU: 1420, Addresses: prefixes(t, "127.0.0.1/8")},
		{MTU: 1420, Addresses: prefixes(t, "169.254.1.1/16")},
		{MTU: 1420, Addresses: prefixes(t, "::ffff:10.0.0.1/128")},
		{MTU: 1420, Addresses: prefixes(t, "10.0.0.1/8", "10.0.0.1/24")},
	} {
		if err := a.SetInterface(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

// TestLearnsEndpoint leaves b without a's endpoint, as a gateway is without a laptop's.
func TestLearnsEndpoint(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	unknown := a.as()
	unknown.Endpoint = netip.AddrPort{}
	update(t, b, unknown)
	if p, err := b.Peers(); err != nil || len(p) != 1 || p[0].Endpoint.IsValid() {
		t.Fatalf("before: %+v, %v", p, err)
	}
	update(t, a, b.as())
	accept(b, 80, echo)
	c := dial(t, a, b.v4, 80)
	_, _ = c.Write([]byte("hello"))
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
	if p, err := b.Peers(); err != nil || len(p) != 1 || p[0].Endpoint.Port() != a.ListenPort() {
		t.Fatalf("after: %+v, %v", p, err)
	}
}

// TestForgedInitiationDoesNotMoveAPeer sends what anyone can send who knows two public keys' owners: an initiation from
// elsewhere that names the peer but cannot be verified.
func TestForgedInitiationDoesNotMoveAPeer(t *testing.T) {
	w := new(whereabouts)
	home := &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort("192.0.2.1:1")}
	away := &conn.StdNetEndpoint{AddrPort: netip.MustParseAddrPort("198.51.100.1:1")}
	w.move(home)
	b := newBind()
	k := key.NewPrivate().Public()
	b.peers[k] = w
	(&origin{StdNetEndpoint: away, b: b, index: 7}).InitiationMessagePublicKey(k)
	if w.at.Load() != home {
		t.Fatal("an unverified initiation moved the peer")
	}
	response := make([]byte, wg.MessageResponseSize)
	response[0] = wg.MessageResponseType
	response[8] = 8 // the answer to another initiation
	w.answering(response)
	if w.at.Load() != home {
		t.Fatal("the answer to another initiation moved the peer")
	}
	(&origin{StdNetEndpoint: away, b: b, index: 8}).InitiationMessagePublicKey(k)
	w.answering(response)
	if w.at.Load() != away {
		t.Fatal("the answer to a verified initiation did not move the peer")
	}
}
