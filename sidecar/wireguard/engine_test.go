package wireguard

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

func randomPeer(r *rand.Rand) datapath.Peer {
	p := datapath.Peer{
		PublicKey: key.NewPrivate().Public(),
		Keepalive: time.Duration(r.IntN(65536)) * time.Second,
	}
	if r.IntN(2) == 0 {
		p.PresharedKey = key.NewPreshared()
	}
	if r.IntN(2) == 0 {
		p.Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + r.IntN(254))}), uint16(1+r.IntN(65535)))
	}
	for range r.IntN(5) {
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
		p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(a, 8+r.IntN(25)))
	}
	return p
}

// TestUpdatePeersAtRandom applies random deltas; what the engine routes and reports must be what its registry says, and the same
// delta again must be nothing to do.
func TestUpdatePeersAtRandom(t *testing.T) {
	a := open(t, 1)
	r := rand.New(rand.NewPCG(1, 2))
	var known []datapath.Peer
	for round := range 200 {
		var upsert []datapath.Peer
		var remove []key.Public
		for _, i := range r.Perm(len(known))[:min(len(known), r.IntN(3))] {
			p := randomPeer(r)
			p.PublicKey = known[i].PublicKey
			upsert = append(upsert, p)
		}
		for range r.IntN(3) {
			upsert = append(upsert, randomPeer(r))
		}
		if len(known) > 0 && r.IntN(3) == 0 {
			k := known[r.IntN(len(known))].PublicKey
			upsert = slices.DeleteFunc(upsert, func(p datapath.Peer) bool { return p.PublicKey == k })
			remove = append(remove, k)
		}
		if err := a.UpdatePeers(upsert, remove); err != nil {
			upsert = nil // two random peers met in an allowed IP; the comparison below shows that nothing happened
		}
		known = known[:0]
		for _, p := range a.registry {
			known = append(known, p)
		}
		slices.SortFunc(known, func(x, y datapath.Peer) int { return bytes.Compare(x.PublicKey[:], y.PublicKey[:]) })
		compareState(t, a, known)
		if d, err := delta.Plan(a.self, a.registry, upsert, nil); err != nil || len(d.Changes) != 0 {
			t.Fatalf("round %d: the same delta again changes %+v, %v", round, d.Changes, err)
		}
	}
}

func compareState(t *testing.T, a *node, want []datapath.Peer) {
	t.Helper()
	got, err := a.Peers()
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d peers, %v; want %d", len(got), err, len(want))
	}
	for i, p := range want {
		if got[i].PublicKey != p.PublicKey || !slices.Equal(got[i].AllowedIPs, p.AllowedIPs) || got[i].Endpoint != p.Endpoint {
			t.Fatalf("peer %d: %+v, want %s %v %v", i, got[i], p.PublicKey, p.AllowedIPs, p.Endpoint)
		}
		for _, ip := range p.AllowedIPs {
			if owner := a.route(ip.Addr()); owner == nil || owner.key != slowRoute(want, ip.Addr()) {
				t.Fatalf("%s leads to another than %s", ip.Addr(), slowRoute(want, ip.Addr()))
			}
		}
	}
	if n := len(a.routes.v4.owner); n != countIPs(want) {
		t.Fatalf("%d routes for %d allowed IPs", n, countIPs(want))
	}
}

func countIPs(peers []datapath.Peer) (n int) {
	for _, p := range peers {
		n += len(p.AllowedIPs)
	}
	return n
}

// slowRoute is whose the address is, looked for in the plainest way.
func slowRoute(peers []datapath.Peer, a netip.Addr) (k key.Public) {
	best := -1
	for _, p := range peers {
		for _, ip := range p.AllowedIPs {
			if ip.Contains(a) && ip.Bits() > best {
				best, k = ip.Bits(), p.PublicKey
			}
		}
	}
	return k
}

func TestRefusedFollowChangesNothing(t *testing.T) {
	b := open(t, 2)
	a := open(t, 1, func(o *Options) { o.Follow = func(delta.Registry) error { return errors.New("no") } })
	if err := a.UpdatePeers([]datapath.Peer{b.as()}, nil); err == nil {
		t.Fatal("no error")
	}
	if ps, _ := a.Peers(); len(ps) != 0 || a.route(b.addr) != nil {
		t.Fatalf("peers %v", ps)
	}
}

func TestNothingLogsASecret(t *testing.T) {
	var out syncBuffer
	a, b := open(t, 1, logTo(&out)), open(t, 2, logTo(&out))
	psk := key.NewPreshared()
	pa, pb := a.as(), b.as()
	pa.PresharedKey, pb.PresharedKey = psk, psk
	know(t, a, pb)
	know(t, b, pa)
	a.sendTo(b.addr, "hello")
	b.expect(t, "hello")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", pa)
		fmt.Fprintf(&out, verb+"\n", a.Engine)
		fmt.Fprintf(&out, verb+"\n", Options{PrivateKey: a.priv})
	}
	for _, secret := range []string{a.priv.Reveal(), a.priv.Hex(), psk.Reveal(), psk.Hex()} {
		if strings.Contains(out.String(), secret[:20]) {
			t.Error("a secret key was written")
		}
	}
}

// TestPeersComeAndGo removes and adds peers under traffic of both directions: nothing is left of those that go, and those that stay are
// as good as new.
func TestPeersComeAndGo(t *testing.T) {
	a, b := pair(t)
	c := open(t, 3)
	know(t, c, a.as())
	stop := make(chan struct{})
	var sending sync.WaitGroup
	for _, way := range [][2]*node{{a, b}, {b, a}, {a, c}, {c, a}} {
		sending.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-way[0].got:
				default:
					way[0].sendTo(way[1].addr, "one", "two")
					time.Sleep(50 * time.Microsecond)
				}
			}
		})
	}
	for i := range 100 {
		know(t, a, c.as())
		time.Sleep(time.Duration(i%7) * time.Millisecond)
		if err := a.UpdatePeers(nil, []key.Public{c.self, b.self}[:1+i%2]); err != nil {
			t.Fatal(err)
		}
		know(t, a, b.as())
	}
	close(stop)
	for _, n := range []*node{a, b, c} { // whoever waits for room in a list of what arrived
		for len(n.got) > 0 {
			<-n.got
		}
	}
	sending.Wait()
	if err := a.UpdatePeers(nil, []key.Public{b.self, c.self}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no index of a peer that is gone", func() bool {
		a.index.mu.RLock()
		defer a.index.mu.RUnlock()
		return len(a.index.entries) == 0
	})
}

// TestOpenCloseLeavesNothing opens and closes engines under traffic.
func TestOpenCloseLeavesNothing(t *testing.T) {
	cycles := 1000
	if testing.Short() {
		cycles = 50
	}
	goroutines := runtime.NumGoroutine()
	for i := range cycles {
		a, b := pair(t)
		a.sendTo(b.addr, "hello")
		if i%10 == 0 {
			b.expect(t, "hello")
		}
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for range 20 {
				a.sendTo(b.addr, "more")
			}
		}()
		for _, n := range []*node{a, b} {
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			if err := n.UpdatePeers([]datapath.Peer{b.as()}, nil); !errors.Is(err, net.ErrClosed) {
				t.Fatalf("a closed engine takes peers: %v", err)
			}
		}
		<-stop
	}
	eventually(t, "every goroutine has ended", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
}

// A process whose place another has taken says nothing any more: no data, no handshake, no answer to one.
func TestMaySend(t *testing.T) {
	var may atomic.Bool
	may.Store(true)
	a, b, c := open(t, 1, func(o *Options) { o.MaySend = may.Load }), open(t, 2), open(t, 3)
	know(t, a, b.as(), c.as())
	know(t, b, a.as())
	know(t, c, a.as())
	a.sendTo(b.addr, "before")
	b.expect(t, "before")
	may.Store(false)
	a.sendTo(b.addr, "meanwhile")
	c.sendTo(a.addr, "begins a handshake")
	b.expectNothing(t, 100*time.Millisecond)
	a.expectNothing(t, 0)
	if a.Drops()["SendError"] < 2 {
		t.Errorf("what was not sent is not counted: %v", a.Drops())
	}
	if s := stats(t, c); s.RxBytes != 0 || !s.LastHandshake.IsZero() {
		t.Errorf("the handshake was answered: %+v", s)
	}
	may.Store(true)
	a.expect(t, "begins a handshake") // which is tried again
}
