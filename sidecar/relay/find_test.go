package relay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// fakeFinder is told what is found. It keeps it, as a Finder has to, until it is told to forget.
type fakeFinder struct {
	mu     sync.Mutex
	found  []netip.AddrPort // none: not found
	known  bool
	held   chan struct{} // not nil: nothing is found before it is closed
	asked  int
	always bool // forgets at once
}

func (f *fakeFinder) is(targets ...netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found, f.known = targets, false
}

func (f *fakeFinder) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *fakeFinder) Find(ctx context.Context) ([]netip.AddrPort, error) {
	f.mu.Lock()
	held := f.held
	f.asked++
	f.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = !f.always
	if len(f.found) == 0 {
		return nil, errors.New("not found")
	}
	return slices.Clone(f.found), nil
}

func (f *fakeFinder) Known() ([]netip.AddrPort, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.found), f.known
}

func (w *world) finding(proto Protocol, f Finder) netip.AddrPort {
	at := freePort(w.t, proto)
	w.set(Forward{Name: "one", Listen: at, Protocol: proto, Finder: f})
	return at
}

// A host is found for each connection, and its targets are tried in their order, those that failed a moment ago last.
func TestFound(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.DialTimeout = 200 * time.Millisecond })
	w.net.route(inner(1), netip.AddrPort{}) // answers nothing
	w.net.route(inner(2), server(t, named("two")))
	w.net.route(inner(3), server(t, named("three")))
	f := &fakeFinder{}
	at := w.finding(TCP, f)
	for i, c := range []struct {
		found []netip.AddrPort
		want  string
	}{
		{[]netip.AddrPort{inner(2), inner(3)}, "two"},
		{[]netip.AddrPort{inner(3), inner(2)}, "three"},
		{[]netip.AddrPort{inner(1), inner(2), inner(3)}, "two"},
		{[]netip.AddrPort{inner(1), inner(3), inner(2)}, "three"}, // the first is not tried again at once
	} {
		f.is(c.found...)
		for range 5 {
			if got, err := say(t, at); got != c.want {
				t.Fatalf("%d: %q, %v, want %q", i, got, err, c.want)
			}
		}
	}
	if n := w.net.dialled(inner(1)); n != 1 {
		t.Errorf("a target that does not answer was tried %d times", n)
	}
	f.is()
	wantDialReset(t, at)
	if n := w.row(Outbound, "one", TCP).Failures[NameNotFound]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

// Who waits for a name waits no longer than for a connection, and not at all once the forward is gone.
func TestFoundInTime(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.DialBudget = 200 * time.Millisecond })
	f := &fakeFinder{held: make(chan struct{})}
	at := w.finding(TCP, f)
	wantDialReset(t, at)
	if n := w.row(Outbound, "one", TCP).Failures[Timeout]; n != 1 {
		t.Errorf("counted %d", n)
	}
	w = newWorld(t, kernelMode)
	at = w.finding(TCP, f)
	c := dial(t, at)
	eventually(t, "question", func() bool { return f.count() == 2 })
	w.set()
	wantReset(t, c)
}

// Datagrams wait until the host is found, hold nobody else up, and follow it.
func TestFoundUDP(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), udpServer(t, "one "))
	w.net.route(inner(2), udpServer(t, "two "))
	f := &fakeFinder{held: make(chan struct{})}
	f.is(inner(1))
	at := w.finding(UDP, f)
	c := dialUDP(t, at)
	for i := range byte(maxDatagrams + 3) {
		if _, err := c.Write([]byte{'a' + i}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "those for which there is no room", func() bool { return w.row(Outbound, "one", UDP).Failures[Limit] == 3 })
	if n := f.count(); n != 1 {
		t.Errorf("%d questions", n)
	}
	close(f.held)
	var got []string
	for range maxDatagrams {
		got = append(got, string(receive(t, c)))
	}
	if !slices.Equal(got, []string{"one a", "one b", "one c", "one d"}) {
		t.Errorf("%q", got)
	}
	wantSilence(t, c)

	f.is(inner(2)) // and nobody knows until he asks: the flow stays, and is moved then
	eventually(t, "the other one", func() bool { return string(ask(t, c, []byte("x"))) == "two x" })
	f.is() // it is not found any more: who is there stays
	for range 3 {
		if got := string(ask(t, c, []byte("x"))); got != "two x" {
			t.Errorf("%q", got)
		}
	}
	d := dialUDP(t, at)
	_, _ = d.Write([]byte("x"))
	wantSilence(t, d)
	if n := w.row(Outbound, "one", UDP).Failures[NameNotFound]; n == 0 {
		t.Error("not counted")
	}
	another := &fakeFinder{}
	another.is(inner(1))
	w.set(Forward{Name: "another", Listen: at, Protocol: UDP, Finder: another}) // whose host nobody has asked for yet
	if got := string(ask(t, c, []byte("y"))); got != "one y" {
		t.Errorf("of another forward: %q", got)
	}
}

// A Finder that keeps nothing is asked for each new flow, and not in circles.
func TestFoundUDPForgetful(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), udpServer(t, ""))
	f := &fakeFinder{always: true}
	f.is(inner(1))
	c := dialUDP(t, w.finding(UDP, f))
	if got := string(ask(t, c, []byte("x"))); got != "x" || f.count() > 2 {
		t.Errorf("%q after %d questions", got, f.count())
	}
}

// What waited for a host that a port does not lead to any more goes nowhere.
func TestFoundUDPForAnother(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), udpServer(t, "one "))
	w.net.route(inner(2), udpServer(t, "two "))
	before, after := &fakeFinder{held: make(chan struct{})}, &fakeFinder{}
	before.is(inner(1))
	after.is(inner(2))
	src := netip.MustParseAddr("127.0.0.1")
	at := freePort(t, UDP)
	w.egress([]netip.Addr{src}, Egress{Name: "before", Listen: at, Protocol: UDP, Port: 80, Finder: before})
	c := datagramsFrom(t, src, at)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "question", func() bool { return before.count() == 1 })
	w.egress([]netip.Addr{src}, Egress{Name: "after", Listen: at, Protocol: UDP, Port: 80, Finder: after})
	close(before.held)
	wantSilence(t, c)
	if got := string(ask(t, c, []byte("y"))); got != "two y" {
		t.Errorf("%q", got)
	}
}

// Egress ports and proxies find hosts too; a proxy asks for what is not carried alone, and for nothing that nobody knows.
func TestFoundElsewhere(t *testing.T) {
	w, p := proxied(t, kernelMode)
	w.net.route(inner(7), server(t, echo))
	f := &fakeFinder{}
	f.is(inner(7))
	p.Find = func(name string, port uint16) Finder {
		if name != "db.corp.internal" || port != 80 {
			return nil
		}
		return f
	}
	if err := w.r.SetProxies(p); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]byte{"db.corp.internal": socksOK, "DB.corp.internal.": socksOK, "x.corp.internal": socksHostUnreachable} {
		if _, code, _ := socksDial(t, p.SOCKS5, socksConnect, name, 80); code != want {
			t.Errorf("%s: %d, want %d", name, code, want)
		}
	}
	f.is()
	if _, code, _ := socksDial(t, p.SOCKS5, socksConnect, "db.corp.internal", 80); code != socksHostUnreachable {
		t.Errorf("not found: %d", code)
	}
	f.is(inner(7))
	src := netip.MustParseAddr("127.0.0.1")
	at := freePort(t, TCP)
	w.egress([]netip.Addr{src}, Egress{Name: "db", Listen: at, Protocol: TCP, Port: 80, Finder: f})
	echoes(t, connectFrom(t, src, at))
	f.is()
	refusedFrom(t, src, at)
}
