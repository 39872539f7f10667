package wireguard

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	refconn "golang.zx2c4.com/wireguard/conn"
	ref "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// other is upstream's implementation with a channel for a TUN device.
type other struct {
	*ref.Device
	tun  *tuntest.ChannelTUN
	priv key.Private
	addr netip.Addr
}

func openOther(t testing.TB) *other {
	t.Helper()
	o := &other{tun: tuntest.NewChannelTUN(), priv: key.NewPrivate(), addr: netip.MustParseAddr("10.9.0.99")}
	o.Device = ref.NewDevice(o.tun.TUN(), refconn.NewDefaultBind(), ref.NewLogger(ref.LogLevelSilent, ""))
	t.Cleanup(o.Close)
	o.set(t, "private_key=%s\n", o.priv.Hex())
	if err := o.Up(); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *other) set(t testing.TB, format string, args ...any) {
	t.Helper()
	if err := o.IpcSet(fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
}

func (o *other) endpoint(t testing.TB) netip.AddrPort {
	t.Helper()
	state, err := o.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	var port uint16
	for line := range strings.Lines(state) {
		_, _ = fmt.Sscanf(line, "listen_port=%d", &port)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

// acquaint makes the two peers, each knowing where the other is only if an endpoint is given.
func acquaint(t testing.TB, n *node, o *other, psk key.Preshared, ours, theirs netip.AddrPort) {
	t.Helper()
	know(t, n, datapath.Peer{PublicKey: o.priv.Public(), PresharedKey: psk, Endpoint: theirs,
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(o.addr, 32)}})
	o.set(t, "public_key=%s\npreshared_key=%s\nallowed_ip=%s/32\n", n.self.Hex(), psk.Hex(), n.addr)
	if ours.IsValid() {
		o.set(t, "public_key=%s\nendpoint=%s\n", n.self.Hex(), ours)
	}
}

func (o *other) sendTo(to netip.Addr, payload string) { o.tun.Outbound <- packet(o.addr, to, payload) }

func (o *other) expect(t testing.TB, payload string) {
	t.Helper()
	select {
	case p := <-o.tun.Inbound:
		if string(p[20:]) != payload {
			t.Fatalf("upstream got %q, want %q", p[20:], payload)
		}
	case <-time.After(15 * time.Second):
		t.Fatalf("nothing reached upstream; want %q", payload)
	}
}

func (n *node) expectSoon(t testing.TB, payload string) {
	t.Helper()
	select {
	case p := <-n.got:
		if string(p[20:]) != payload {
			t.Fatalf("got %q, want %q", p[20:], payload)
		}
	case <-time.After(15 * time.Second): // upstream tries again after five
		t.Fatalf("nothing arrived; want %q", payload)
	}
}

// inside is an unexported field of upstream's, however deep.
func inside[T any](v any, path ...string) *T {
	f := reflect.ValueOf(v).Elem()
	for _, name := range path {
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		f = f.FieldByName(name)
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr()))
}

func (o *other) peer(n *node) *ref.Peer { return o.LookupPeer(ref.NoisePublicKey(n.self)) }

func (o *other) current(n *node) *ref.Keypair {
	return inside[ref.Keypairs](o.peer(n), "keypairs").Current()
}

// load makes an end believe that it is under load.
func (n *node) load() { n.loaded.Store(int64(n.now().add(time.Hour))) }

func (o *other) load() {
	inside[atomic.Int64](o.Device, "rate", "underLoadUntil").Store(time.Now().Add(time.Hour).UnixNano())
}

// age makes the session with a peer older. It is replaced by a copy, because others may be reading it.
func (p *peer) age(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.current.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	old := &session{peer: p, initiator: s.initiator, created: s.created.add(-d), local: s.local, remote: s.remote, sends: s.sends,
		receives: s.receives, seen: s.seen}
	old.nonce.Store(s.nonce.Load())
	p.engine.index.replace(s.local, entry{peer: p, session: old})
	p.current.Store(old)
	p.lastAsked = 0
}

// age makes upstream's session with us older, and lets it begin a handshake at once.
func (o *other) age(n *node, d time.Duration) {
	p := o.peer(n)
	pairs := inside[ref.Keypairs](p, "keypairs")
	pairs.Lock()
	defer pairs.Unlock()
	created := inside[time.Time](*inside[*ref.Keypair](pairs, "current"), "created")
	*created = created.Add(-d)
	h := inside[ref.Handshake](p, "handshake")
	*inside[time.Time](h, "lastSentHandshake") = time.Time{}
}

// TestUpstreamHandshakes has each end begin, with and without a preshared key, with neither, one or both ends asking for cookies.
func TestUpstreamHandshakes(t *testing.T) {
	for _, weAsk := range []bool{true, false} {
		for _, with := range []bool{false, true} {
			for _, loaded := range []string{"none", "ours", "theirs", "both"} {
				t.Run(fmt.Sprintf("we ask %t, preshared %t, under load %s", weAsk, with, loaded), func(t *testing.T) {
					t.Parallel()
					var psk key.Preshared
					if with {
						psk = key.NewPreshared()
					}
					upstreamHandshake(t, weAsk, psk, loaded)
				})
			}
		}
	}
}

func upstreamHandshake(t *testing.T, weAsk bool, psk key.Preshared, loaded string) {
	n, o := open(t, 1), openOther(t)
	ours, theirs := n.as().Endpoint, o.endpoint(t)
	if weAsk {
		ours = netip.AddrPort{}
	} else {
		theirs = netip.AddrPort{}
	}
	acquaint(t, n, o, psk, ours, theirs)
	if loaded == "ours" || loaded == "both" {
		n.load()
	}
	if loaded == "theirs" || loaded == "both" {
		o.load()
	}
	say := func(what string) {
		n.sendTo(o.addr, what+" from us")
		o.expect(t, what+" from us")
	}
	hear := func(what string) {
		o.sendTo(n.addr, what+" from them")
		n.expectSoon(t, what+" from them")
	}
	if weAsk {
		say("first")
		hear("then")
	} else {
		hear("first")
		say("then")
	}
	p := n.peer(o.priv.Public())
	if got := p.current.Load().initiator; got != weAsk {
		t.Errorf("we began: %t", got)
	}
	p.mu.Lock()
	asked := !p.signer.given.IsZero()
	p.mu.Unlock()
	if want := loaded == "theirs" || loaded == "both"; asked != want {
		t.Errorf("we were given a cookie: %t, want %t", asked, want)
	}
}

// TestUpstreamRenewal makes sessions old on either side: who began renews as it sends, and nothing is lost.
func TestUpstreamRenewal(t *testing.T) {
	if racing() {
		t.Skip("NOT TESTED with the race detector: upstream's sessions are made older behind its back, which it would find")
	}
	for _, weAsk := range []bool{true, false} {
		for _, listening := range []bool{false, true} {
			t.Run(fmt.Sprintf("we ask %t, only listening %t", weAsk, listening), func(t *testing.T) {
				t.Parallel()
				upstreamRenewal(t, weAsk, listening)
			})
		}
	}
}

func upstreamRenewal(t *testing.T, weAsk, listening bool) {
	n, o := open(t, 1), openOther(t)
	acquaint(t, n, o, key.NewPreshared(), n.as().Endpoint, o.endpoint(t))
	if weAsk {
		n.sendTo(o.addr, "first")
		o.expect(t, "first")
	} else {
		o.sendTo(n.addr, "first")
		n.expectSoon(t, "first")
	}
	p := n.peer(o.priv.Public())
	eventually(t, "a session", func() bool { return p.current.Load() != nil && o.current(n) != nil })
	time.Sleep(2 * floodGap)
	age := rekeyAfter + time.Second
	if listening {
		age = rejectAfter - keepaliveAfter - retryAfter + time.Second
	}
	p.age(age)
	o.age(n, age)
	ours, theirs := p.current.Load(), o.current(n)
	if weAsk != listening { // we send, with the old session, and then with the new one
		n.sendTo(o.addr, "old")
		o.expect(t, "old")
	} else {
		o.sendTo(n.addr, "old")
		n.expectSoon(t, "old")
	}
	eventually(t, "a new session at both ends", func() bool {
		return p.current.Load() != ours && o.current(n) != theirs
	})
	if got := p.current.Load().initiator; got != weAsk {
		t.Errorf("we renewed: %t", got)
	}
	n.sendTo(o.addr, "new")
	o.expect(t, "new")
	o.sendTo(n.addr, "new")
	n.expectSoon(t, "new")
}

// relay stands between us and upstream; to upstream it can move.
type relay struct {
	front, back atomic.Pointer[net.UDPConn]
	us          netip.AddrPort
	them        netip.AddrPort
}

func local(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func addrOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func forward(from, by *atomic.Pointer[net.UDPConn], c *net.UDPConn, to *netip.AddrPort) {
	buf := make([]byte, 65535)
	for {
		n, _, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if from.Load() == c {
			_, _ = by.Load().WriteToUDPAddrPort(buf[:n], *to)
		}
	}
}

// move gives the relay a new socket towards upstream; what comes to the old one is lost from now on.
func (r *relay) move(t testing.TB) {
	c := local(t)
	r.back.Store(c)
	go forward(&r.back, &r.front, c, &r.us)
}

// TestUpstreamRoaming moves each end in turn. The other follows as soon as it hears of it, and not before.
func TestUpstreamRoaming(t *testing.T) {
	n, o := open(t, 1), openOther(t)
	r := &relay{us: n.as().Endpoint, them: o.endpoint(t)}
	front := local(t)
	r.front.Store(front)
	r.move(t)
	go forward(&r.front, &r.back, front, &r.them)
	acquaint(t, n, o, key.NewPreshared(), netip.AddrPort{}, addrOf(front))
	for i := range 3 { // we move, as upstream sees it
		what := fmt.Sprintf("our move %d", i)
		n.sendTo(o.addr, what)
		o.expect(t, what)
		o.sendTo(n.addr, what)
		n.expectSoon(t, what)
		r.move(t)
	}

	n, o = open(t, 1), openOther(t)
	acquaint(t, n, o, key.NewPreshared(), n.as().Endpoint, o.endpoint(t))
	for i := range 3 { // upstream moves
		what := fmt.Sprintf("their move %d", i)
		o.sendTo(n.addr, what)
		n.expectSoon(t, what)
		if at := stats(t, n).Endpoint; at != o.endpoint(t) {
			t.Errorf("%s: it is thought to be at %s", what, at)
		}
		n.sendTo(o.addr, what)
		o.expect(t, what)
		o.set(t, "listen_port=0\n")
	}
}
