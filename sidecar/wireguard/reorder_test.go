package wireguard

import (
	"encoding/binary"

	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// arrival is a packet of a flow as a path brings it.
type arrival struct {
	number uint64
	flow   byte
	at     instant
}

// flowPacket has the ports of a flow.
func flowPacket(flow byte) []byte {
	p := packet(netip.AddrFrom4([4]byte{10, 9, 0, 1}), netip.AddrFrom4([4]byte{10, 9, 0, 2}), "\x00\x00\x00\x00data")
	p[21] = flow
	return p
}

// follow sends arrivals through an order as a receiver does, with its timer, and says in which order they come out, and how many waited.
func follow(o *order, path []arrival) (out []uint64, waited int) {
	var wake instant
	take := func(now instant) {
		list, wait := o.release(now)
		for _, h := range list {
			out = append(out, h.number)
		}
		if wake = 0; wait > 0 {
			wake = now.add(wait)
		}
	}
	for _, a := range path {
		for wake != 0 && wake <= a.at {
			take(wake)
		}
		where := o.see(a.number, flowPacket(a.flow), a.at)
		if where == early {
			if waited++; o.hold(held{number: a.number, at: a.at}) {
				if wake == 0 {
					wake = a.at.add(o.wait)
				}
				continue
			}
		}
		out = append(out, a.number)
		if where == last {
			take(a.at)
		}
	}
	for wake != 0 {
		take(wake)
	}
	return out, waited
}

// spaced is a path that brings numbers 0 to n-1, one every tenth of a millisecond, each later by what late says; negative: never.
func spaced(n int, flow func(i int) byte, late func(i int) time.Duration) (path []arrival) {
	for i := range n {
		if by := late(i); by >= 0 {
			path = append(path, arrival{uint64(i), flow(i), instant(time.Second).add(time.Duration(i)*100*time.Microsecond + by)})
		}
	}
	slices.SortStableFunc(path, func(a, b arrival) int { return int(a.at - b.at) })
	return path
}

func oneFlow(int) byte { return 7 }

func inversions(numbers []uint64) (n int) {
	for i := 1; i < len(numbers); i++ {
		if numbers[i] < numbers[i-1] {
			n++
		}
	}
	return n
}

// A path that delays each fiftieth packet: the first that is seen to be late comes late, all others in their place.
func TestOrderIsHadBack(t *testing.T) {
	for _, by := range []time.Duration{300 * time.Microsecond, 3 * time.Millisecond, 15 * time.Millisecond} {
		path := spaced(5000, oneFlow, func(i int) time.Duration {
			if i%50 == 0 {
				return by + 50*time.Microsecond
			}
			return 0
		})
		out, _ := follow(&order{}, path)
		late := int(by/(5*time.Millisecond)) + 2 // those under way when it is learned
		if n := inversions(out); len(out) != len(path) || n > late {
			t.Errorf("late by %s: %d of %d came, %d out of order, want %d at most", by, len(out), len(path), n, late)
		}
	}
}

// Where a loss, or another flow's turn, is what is missing, nothing waits.
func TestNothingWaitsInOrder(t *testing.T) {
	for name, path := range map[string][]arrival{
		"in order": spaced(3000, oneFlow, func(int) time.Duration { return 0 }),
		"losses": spaced(3000, oneFlow, func(i int) time.Duration {
			if i%37 == 0 {
				return -1
			}
			return 0
		}),
		"flows numbered out of turn": spaced(3000, func(i int) byte { return byte(i / 10 % 2) }, func(i int) time.Duration {
			if i/10%2 == 0 { // the batches of one flow are overtaken by those of the other
				return 2 * time.Millisecond
			}
			return 0
		}),
		"far too late": spaced(3000, oneFlow, func(i int) time.Duration {
			if i%500 == 0 {
				return 2 * mostWait
			}
			return 0
		}),
	} {
		out, waited := follow(&order{}, path)
		if waited > 0 || len(out) != len(path) {
			t.Errorf("%s: %d packets waited, %d of %d came", name, waited, len(out), len(path))
		}
	}
}

// Losses on a path that also changes the order delay what is behind them by the wait, and stop nothing.
func TestLossAmongLate(t *testing.T) {
	o := &order{}
	path := spaced(5000, oneFlow, func(i int) time.Duration {
		switch {
		case i%97 == 0:
			return -1
		case i%50 == 0:
			return 2 * time.Millisecond
		}
		return 0
	})
	out, waited := follow(o, path)
	if waited == 0 || inversions(out) > 3 || len(out) != len(path) || len(o.held) > 0 {
		t.Errorf("%d of %d came, %d out of order, %d waited, %d wait still", len(out), len(path), inversions(out), waited, len(o.held))
	}
}

// Whatever a path does, each packet comes out once, and the path is forgotten when it keeps the order.
func TestOrderAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		path := spaced(1500, func(int) byte { return byte(r.IntN(3)) }, func(int) time.Duration {
			switch r.IntN(20) {
			case 0:
				return -1
			case 1, 2:
				return rand.N(30 * time.Millisecond)
			}
			return 0
		})
		o := &order{}
		out, _ := follow(o, path)
		want := make([]uint64, 0, len(path))
		for _, a := range path {
			want = append(want, a.number)
		}
		slices.Sort(out)
		slices.Sort(want)
		if !slices.Equal(out, want) || len(o.held) > 0 {
			t.Fatalf("seed %d: %d came of %d, %d wait still", seed, len(out), len(want), len(o.held))
		}
		end := path[len(path)-1].at.add(watchFor + time.Second)
		quiet := []arrival{{5000, 1, end}, {5001, 1, end}, {5003, 1, end}}
		if _, waited := follow(o, quiet); waited > 0 {
			t.Fatalf("seed %d: still watched", seed)
		}
	}
}

// detour is a path that brings each of some packets late.
func detour(t *testing.T, to netip.AddrPort, every int, by time.Duration) netip.AddrPort {
	t.Helper()
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var from sync.Map
	t.Cleanup(func() { _, _ = in.Close(), out.Close(); all.Wait() })
	all.Go(func() {
		b := make([]byte, 2048)
		for n := 0; ; n++ {
			size, at, err := in.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			from.Store(0, at)
			d := slices.Clone(b[:size])
			if n%every == every-1 {
				time.AfterFunc(by, func() { _, _ = out.Write(d) })
				continue
			}
			_, _ = out.Write(d)
		}
	})
	all.Go(func() {
		b := make([]byte, 2048)
		for {
			size, err := out.Read(b)
			if err != nil {
				return
			}
			if at, ok := from.Load(0); ok {
				_, _ = in.WriteToUDPAddrPort(b[:size], at.(netip.AddrPort))
			}
		}
	})
	return in.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Over a path that changes the order, packets of a flow are delivered in the order in which they were sent, and none is lost.
func TestDetour(t *testing.T) {
	a, b := open(t, 1), open(t, 2)
	far := b.as()
	far.Endpoint = detour(t, far.Endpoint, 20, 3*time.Millisecond)
	know(t, a, far)
	know(t, b, a.as())
	const all = 2000
	go func() {
		for i := range all {
			a.sendTo(b.addr, string(binary.BigEndian.AppendUint32([]byte("flow"), uint32(i))))
			time.Sleep(200 * time.Microsecond)
		}
	}()
	var got []uint64
	for len(got) < all {
		select {
		case p := <-b.got:
			got = append(got, uint64(binary.BigEndian.Uint32(p[24:])))
		case <-time.After(5 * time.Second):
			t.Fatalf("%d of %d came", len(got), all)
		}
	}
	if n := inversions(got); n > all/20/4 {
		t.Errorf("%d of %d late packets were delivered late", n, all/20)
	}
}

// A session that ends while packets wait drops them, and what they had is given back.
func TestEndWhileWaiting(t *testing.T) {
	a, b := pair(t)
	a.sendTo(b.addr, "flow")
	b.expect(t, "flow")
	p := b.peer(a.priv.Public())
	s := p.current.Load()
	if s == nil {
		s = p.next.Load()
	}
	s.mu.Lock()
	s.watch, s.wait = b.now().add(time.Hour), time.Hour
	s.mu.Unlock()
	for i := range 5 {
		if !s.keep(uint64(100+i), make([]byte, 100), b.now()) {
			t.Fatal("not kept")
		}
	}
	if n := b.holders.bytes.Load(); n == 0 {
		t.Fatal("nothing is counted")
	}
	moved := a.as()
	moved.AllowedIPs = append(moved.AllowedIPs[:0:0], netip.MustParsePrefix("10.9.9.0/24"))
	know(t, b, moved)
	if n := b.holders.bytes.Load(); n != 0 || len(s.held) != 0 {
		t.Errorf("%d bytes and %d packets are held of a peer that has other addresses now", n, len(s.held))
	}
	if !s.keep(150, make([]byte, 100), b.now()) {
		t.Fatal("not kept")
	}
	if err := b.UpdatePeers(nil, []key.Public{a.priv.Public()}); err != nil {
		t.Fatal(err)
	}
	if n := b.holders.bytes.Load(); n != 0 || len(s.held) != 0 || s.keep(200, nil, b.now()) {
		t.Errorf("%d bytes and %d packets are held of a session that is over", n, len(s.held))
	}
}
