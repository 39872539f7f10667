package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// say connects, sends "hi" and returns what comes back until the end.
func say(t *testing.T, at netip.AddrPort) (string, error) {
	t.Helper()
	c := dial(t, at)
	defer c.Close()
	if _, err := c.Write([]byte("hi")); err != nil {
		return "", err
	}
	_ = c.CloseWrite()
	b, err := io.ReadAll(c)
	return string(b), err
}

func named(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		_, _ = c.Write([]byte(name))
	}
}

func TestFailover(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.DialTimeout = 200 * time.Millisecond })
	w.net.route(inner(2), netip.AddrPort{}) // answers nothing
	w.net.route(inner(3), server(t, named("three")))
	listen := w.forward(inner(1), inner(2), inner(3)) // the first refuses
	for i := range 30 {
		if got, err := say(t, listen); got != "three" {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
	}
	if n := w.net.dialled(inner(2)); n > 1 {
		t.Errorf("a target that does not answer was tried %d times", n)
	}
}

func TestBalancing(t *testing.T) {
	w := newWorld(t, kernelMode)
	at, conns := accepted(t)
	w.net.route(inner(1), at)
	w.net.route(inner(2), at)
	listen := w.forward(inner(1), inner(2))
	for range 40 {
		dial(t, listen)
		<-conns
	}
	if a, b := w.net.dialled(inner(1)), w.net.dialled(inner(2)); a != 20 || b != 20 {
		t.Errorf("open connections are spread %d to %d", a, b)
	}
}

func TestNoTargetResets(t *testing.T) {
	w := newWorld(t, kernelMode)
	listen := w.forward()
	wantDialReset(t, listen)
	if n := w.row(Outbound, "one", TCP).Failures[NoTargets]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestAllTargetsRefuse(t *testing.T) {
	w := newWorld(t, kernelMode)
	listen := w.forward(inner(1), inner(2))
	wantDialReset(t, listen)
	if n := w.row(Outbound, "one", TCP).Failures[Refused]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestDialBudget(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) {
		o.Limits.DialTimeout, o.Limits.DialBudget = 60*time.Millisecond, 100*time.Millisecond
	})
	for i := range byte(5) {
		w.net.route(inner(i), netip.AddrPort{})
	}
	listen := w.forward(inner(0), inner(1), inner(2), inner(3), inner(4))
	wantDialReset(t, listen)
	if n := w.row(Outbound, "one", TCP).Failures[Timeout]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestTargetsChangeUnderTransfer(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), server(t, echo))
	w.net.route(inner(2), server(t, named("two")))
	listen := w.forward(inner(1))
	old := dial(t, listen)
	eventually(t, "the first connection is dialled", func() bool { return w.net.dialled(inner(1)) == 1 })
	before := w.r.forwards[forwardKey{TCP, listen}]
	w.set(Forward{Name: "one", Listen: listen, Protocol: TCP, Targets: []netip.AddrPort{inner(2)}})
	if w.r.forwards[forwardKey{TCP, listen}] != before {
		t.Error("the listener was replaced")
	}
	must(old.Write([]byte("still here")))
	_ = old.CloseWrite()
	if got, err := io.ReadAll(old); err != nil || string(got) != "still here" {
		t.Errorf("old connection: %q, %v", got, err)
	}
	if got, err := say(t, listen); got != "two" {
		t.Errorf("new connection: %q, %v", got, err)
	}
}

func TestRemovedForward(t *testing.T) {
	w := newWorld(t, kernelMode)
	client, srv := w.pair()
	other := freePort(t, TCP)
	w.set(Forward{Name: "other", Listen: other, Protocol: TCP})
	wantReset(t, client)
	wantReset(t, srv)
	if _, err := net.Dial("tcp", client.RemoteAddr().String()); err == nil {
		t.Error("the removed forward still listens")
	}
	if rows := w.r.Stats().Rows; len(rows) != 1 || rows[0].Name != "other" {
		t.Errorf("rows: %+v", rows)
	}
}

func TestOneBadForwardDoesNotStopTheOthers(t *testing.T) {
	w := newWorld(t, kernelMode)
	taken := must(net.Listen("tcp", "127.77.0.1:0"))
	at := addrPortOf(taken.Addr())
	w.net.route(inner(1), server(t, echo))
	good := freePort(t, TCP)
	all := []Forward{
		{Name: "conflict", Listen: at, Protocol: TCP, Targets: []netip.AddrPort{inner(1)}},
		{Name: "outside", Listen: netip.MustParseAddrPort("192.0.2.1:80"), Protocol: TCP},
		{Name: "wildcard", Listen: netip.MustParseAddrPort("0.0.0.0:80"), Protocol: TCP},
		{Name: "noport", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Protocol: TCP},
		{Name: "proto", Listen: netip.MustParseAddrPort("127.0.0.1:81"), Protocol: "SCTP"},
		{Name: "badtarget", Listen: netip.MustParseAddrPort("127.0.0.1:82"), Protocol: TCP, Targets: make([]netip.AddrPort, 1)},
		{Name: "unset", Protocol: TCP},
		{Name: "good", Listen: good, Protocol: TCP, Targets: []netip.AddrPort{inner(1)}},
		{Name: "twice", Listen: good, Protocol: TCP},
	}
	err := w.r.SetForwards(all)
	for _, name := range []string{"conflict", "outside", "wildcard", "noport", "proto", "badtarget", "unset", "twice"} {
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
			t.Errorf("error does not name %q: %v", name, err)
		}
	}
	if strings.Contains(err.Error(), `forward "good":`) {
		t.Errorf("error blames the good one: %v", err)
	}
	if got, err := say(t, good); got != "hi" {
		t.Errorf("the good forward: %q, %v", got, err)
	}
	_ = taken.Close()
	w.set(all[0])
	if got, err := say(t, at); got != "hi" {
		t.Errorf("after the conflict: %q, %v", got, err)
	}
}

func TestThousandShortConnections(t *testing.T) {
	w := newWorld(t, waiterMode)
	w.net.route(inner(1), server(t, echo))
	listen := w.forward(inner(1))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				if got, err := say(t, listen); got != "hi" {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "all are forgotten", func() bool { return w.r.Stats().Connections == 0 })
	if row := w.row(Outbound, "one", TCP); row.Total != 1000 || row.Up != 2000 || row.Down != 2000 {
		t.Errorf("stats: %+v", row)
	}
}

func TestConnectionLimit(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.Connections = 1 })
	w.pair()
	var listen netip.AddrPort
	for k := range w.r.forwards {
		listen = k.at
	}
	wantDialReset(t, listen)
	eventually(t, "counted", func() bool { return w.row(Outbound, "one", TCP).Failures[Limit] == 1 })
}

func TestDrain(t *testing.T) {
	w := newWorld(t, kernelMode)
	client, srv := w.pair()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := w.r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connections") {
		t.Fatalf("drain with a connection open: %v", err)
	}
	if _, err := net.Dial("tcp", client.RemoteAddr().String()); err == nil {
		t.Error("still accepts while draining")
	}
	if err := w.r.SetForwards(nil); !errors.Is(err, ErrDraining) {
		t.Errorf("SetForwards while draining: %v", err)
	}
	drained := make(chan error)
	go func() { drained <- w.r.Drain(context.Background()) }()
	must(client.Write([]byte("last words")))
	_ = client.Close()
	if got, err := io.ReadAll(srv); err != nil || string(got) != "last words" {
		t.Errorf("server got %q, %v", got, err)
	}
	_ = srv.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestCloseResets(t *testing.T) {
	w := newWorld(t, kernelMode)
	client, srv := w.pair()
	_ = w.r.Close()
	wantReset(t, client)
	wantReset(t, srv)
}

func TestIPv6Loopback(t *testing.T) {
	if _, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("no IPv6 loopback")
	}
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), server(t, echo))
	ln := must(net.Listen("tcp", "[::1]:0"))
	at := addrPortOf(ln.Addr())
	_ = ln.Close()
	w.set(Forward{Name: "six", Listen: at, Protocol: TCP, Targets: []netip.AddrPort{inner(1)}})
	if got, err := say(t, at); got != "hi" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBalancerOrder(t *testing.T) {
	now := time.Now()
	b := newBalancer[netip.AddrPort](5 * time.Second)
	all := []netip.AddrPort{inner(1), inner(2), inner(3), inner(4)}
	b.mark(inner(1), false, now.Add(-time.Second)) // failed first
	b.mark(inner(2), false, now)
	b.mark(inner(3), false, now.Add(-time.Minute)) // forgiven
	for range 100 {
		got := b.order(all, now)
		if got[2] != inner(1) || got[3] != inner(2) {
			t.Fatalf("order: %v", got)
		}
	}
	b.begin(inner(3))
	for range 100 {
		if got := b.order(all, now); got[0] != inner(4) {
			t.Fatalf("the busier one came first: %v", got)
		}
	}
	b.end(inner(3))
	b.mark(inner(3), true, now)
	for i := range maxRemembered + 10 {
		at := netip.AddrPortFrom(inner(1).Addr(), uint16(i+1))
		b.mark(at, false, now)
	}
	if len(b.m) > maxRemembered {
		t.Errorf("remembers %d targets", len(b.m))
	}
}
