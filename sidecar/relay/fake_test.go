package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// mode is what a stream of the fake network offers beyond datapath.Stream.
type mode string

const (
	kernelMode mode = "kernel" // a kernel socket, as TUN has
	singlyMode mode = "singly" // one that packets come to one by one, as Kernel has
	waiterMode mode = "waiter" // WaitReadable and Reset, as a good netstack has
	opaqueMode mode = "opaque" // nothing
)

// fakeNet is a Network whose inner addresses are kernel loopback sockets elsewhere.
type fakeNet struct {
	mode mode

	mu     sync.Mutex
	routes map[netip.AddrPort]netip.AddrPort // inner -> loopback; zero value: packets vanish
	onTCP  func(datapath.TCPRequest)
	onUDP  func(datapath.UDPRequest)
	dials  map[netip.AddrPort]int
}

var _ datapath.Network = (*fakeNet)(nil)

func newFakeNet(m mode) *fakeNet {
	return &fakeNet{mode: m, routes: map[netip.AddrPort]netip.AddrPort{}, dials: map[netip.AddrPort]int{}}
}

func (f *fakeNet) route(inner, outer netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes[inner] = outer
}

func (f *fakeNet) dialled(inner netip.AddrPort) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials[inner]
}

func (f *fakeNet) find(ctx context.Context, to netip.AddrPort) (netip.AddrPort, error) {
	f.mu.Lock()
	outer, ok := f.routes[to]
	f.dials[to]++
	f.mu.Unlock()
	if !ok {
		return outer, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	if !outer.IsValid() {
		<-ctx.Done()
		return outer, ctx.Err()
	}
	return outer, nil
}

func (f *fakeNet) DialTCP(ctx context.Context, to netip.AddrPort) (datapath.Stream, error) {
	outer, err := f.find(ctx, to)
	if err != nil {
		return nil, err
	}
	c, err := dialLocalTCP(ctx, outer, time.Second)
	if err != nil {
		return nil, err
	}
	return f.wrap(c.TCPConn), nil
}

func (f *fakeNet) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	outer, err := f.find(ctx, to)
	if err != nil {
		return nil, err
	}
	c, err := dialLocalUDP(ctx, outer)
	if err != nil {
		return nil, err
	}
	if f.mode == kernelMode {
		return c, nil
	}
	return struct{ net.Conn }{c}, nil
}

func (f *fakeNet) HandleTCP(h func(datapath.TCPRequest)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onTCP = h
}

func (f *fakeNet) HandleUDP(h func(datapath.UDPRequest)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onUDP = h
}

func (f *fakeNet) wrap(c *net.TCPConn) datapath.Stream {
	switch f.mode {
	case waiterMode:
		return waiterStream{opaqueStream{c, localStream{c}}, new(atomic.Bool)}
	case opaqueMode:
		return opaqueStream{c, localStream{c}}
	case singlyMode:
		return singlyStream{localStream{c}}
	}
	return localStream{c}
}

type singlyStream struct{ localStream }

func (singlyStream) Singly() bool { return true }

// opaqueStream hides that it is a kernel socket.
type opaqueStream struct {
	net.Conn
	s localStream
}

func (o opaqueStream) CloseWrite() error { return o.s.CloseWrite() }
func (o opaqueStream) Abort()            { o.s.Abort() }

type waiterStream struct {
	opaqueStream
	finished *atomic.Bool
}

func (w waiterStream) CloseWrite() error {
	w.finished.Store(true)
	return w.opaqueStream.CloseWrite()
}

func (w waiterStream) WaitReadable() error {
	raw, err := w.s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error // peeking takes the error off the socket: the read would not see it again
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, failed = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK)
		return failed != unix.EAGAIN
	})
	if err == nil {
		err = failed
	}
	return err
}

func (w waiterStream) Reset() bool {
	raw, err := w.s.SyscallConn()
	return err == nil && (&reader{conn: w.s, raw: raw}).reset(w.finished.Load())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fakeTCPRequest is a peer asking for a connection; the peer's end comes out of peer, nil when refused.
type fakeTCPRequest struct {
	f             *fakeNet
	local, remote netip.AddrPort
	peer          chan *net.TCPConn
}

func (q *fakeTCPRequest) Local() netip.AddrPort  { return q.local }
func (q *fakeTCPRequest) Remote() netip.AddrPort { return q.remote }
func (q *fakeTCPRequest) Refuse()                { q.peer <- nil }
func (q *fakeTCPRequest) Accept() (datapath.Stream, error) {
	ln, err := listenTCP(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	s, err := ln.AcceptTCP()
	if err != nil {
		return nil, err
	}
	q.peer <- c.(*net.TCPConn)
	return q.f.wrap(s), nil
}

// connect is a peer's connect(); nil when it is refused.
func (f *fakeNet) connect(remote netip.Addr, port uint16) *net.TCPConn {
	return f.connectAt(remote, netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), port))
}

// connectAt is one to a certain address of ours.
func (f *fakeNet) connectAt(remote netip.Addr, local netip.AddrPort) *net.TCPConn {
	f.mu.Lock()
	h := f.onTCP
	f.mu.Unlock()
	if h == nil {
		return nil
	}
	q := &fakeTCPRequest{f: f, local: local, remote: netip.AddrPortFrom(remote, 40000), peer: make(chan *net.TCPConn, 1)}
	go h(q)
	return <-q.peer
}

// fakeUDPRequest is the first datagram of a flow.
type fakeUDPRequest struct {
	local, remote netip.AddrPort
	conn          net.Conn
	refused       chan bool
}

func (q *fakeUDPRequest) Local() netip.AddrPort  { return q.local }
func (q *fakeUDPRequest) Remote() netip.AddrPort { return q.remote }
func (q *fakeUDPRequest) Refuse()                { q.refused <- true }
func (q *fakeUDPRequest) Accept() (net.Conn, error) {
	q.refused <- false
	return q.conn, nil
}

// send is a peer's first datagram; the connection is the peer's end, nil when refused.
func (f *fakeNet) send(t *testing.T, remote netip.AddrPort, port uint16, data []byte) *net.UDPConn {
	t.Helper()
	return f.sendAt(t, remote, netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), port), data)
}

// sendAt is one to a certain address of ours.
func (f *fakeNet) sendAt(t *testing.T, remote, local netip.AddrPort, data []byte) *net.UDPConn {
	t.Helper()
	f.mu.Lock()
	h := f.onUDP
	f.mu.Unlock()
	if h == nil {
		return nil
	}
	peer := must(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	ours := must(net.DialUDP("udp4", nil, peer.LocalAddr().(*net.UDPAddr)))
	_ = peer.Close()
	peer = must(net.DialUDP("udp4", peer.LocalAddr().(*net.UDPAddr), ours.LocalAddr().(*net.UDPAddr)))
	must(peer.Write(data))
	q := &fakeUDPRequest{local: local, remote: remote, conn: ours, refused: make(chan bool, 1)}
	go h(q)
	if <-q.refused {
		_ = peer.Close()
		_ = ours.Close()
		return nil
	}
	t.Cleanup(func() { _ = peer.Close() })
	return peer
}

// world is a relay on a fake network, checked for leaks when the test ends.
type world struct {
	t   *testing.T
	net *fakeNet
	r   *Relay
}

func newWorld(t *testing.T, m mode, change ...func(*Options)) *world {
	t.Helper()
	before := runtime.NumGoroutine()
	w := &world{t: t, net: newFakeNet(m)}
	o := Options{Network: w.net, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	w.r = New(o)
	t.Cleanup(func() {
		_ = w.r.Close()
		if free := w.r.lender.free.Load(); free != int64(w.r.opts.Limits.LargeBuffers) {
			t.Errorf("large buffers not given back: %d of %d free", free, w.r.opts.Limits.LargeBuffers)
		}
		if n := len(w.r.balancer.m); n > 0 {
			for at, s := range w.r.balancer.m {
				if s.open != 0 {
					t.Errorf("balancer still counts %d connections to %s", s.open, at)
				}
			}
		}
		for at, s := range w.r.inbound.balancer.m {
			if s.open != 0 {
				t.Errorf("balancer still counts %d connections to published %s", s.open, at)
			}
		}
		eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
	})
	return w
}

func forEachMode(t *testing.T, body func(t *testing.T, w *world)) {
	for _, m := range []mode{kernelMode, singlyMode, waiterMode, opaqueMode} {
		t.Run(string(m), func(t *testing.T) { body(t, newWorld(t, m)) })
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("never: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// inner is the n-th address of the tunnel, port 80.
func inner(n byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 1, n}), 80)
}

// freePort is a loopback address nobody listens on.
func freePort(t *testing.T, proto Protocol) netip.AddrPort {
	t.Helper()
	at := netip.MustParseAddrPort("127.77.0.1:0")
	if proto == UDP {
		c := must(listenUDP(context.Background(), at))
		defer c.Close()
		return addrPortOf(c.LocalAddr())
	}
	ln := must(listenTCP(context.Background(), at))
	defer ln.Close()
	return addrPortOf(ln.Addr())
}

// server accepts on loopback and serves each connection with f.
func server(t *testing.T, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln := must(listenTCP(context.Background(), netip.MustParseAddrPort("127.0.0.1:0")))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return addrPortOf(ln.Addr())
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

// accepted gives the server side of connections to the test.
func accepted(t *testing.T) (netip.AddrPort, <-chan *net.TCPConn) {
	t.Helper()
	ln := must(listenTCP(context.Background(), netip.MustParseAddrPort("127.0.0.1:0")))
	out := make(chan *net.TCPConn, 16)
	go func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			out <- c
		}
	}()
	t.Cleanup(func() { _ = ln.Close() })
	return addrPortOf(ln.Addr()), out
}

func dial(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// forward sets one TCP forward to the targets and returns where it listens.
func (w *world) forward(targets ...netip.AddrPort) netip.AddrPort {
	w.t.Helper()
	at := freePort(w.t, TCP)
	w.set(Forward{Name: "one", Listen: at, Protocol: TCP, Targets: targets})
	return at
}

func (w *world) set(fs ...Forward) {
	w.t.Helper()
	if err := w.r.SetForwards(fs); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) row(dir Direction, name string, proto Protocol) Row {
	for _, row := range w.r.Stats().Rows {
		if row.Direction == dir && row.Name == name && row.Protocol == proto {
			return row
		}
	}
	return Row{}
}

// pair is an established connection: the client's end and the server's.
func (w *world) pair() (client, srv *net.TCPConn) {
	w.t.Helper()
	at, conns := accepted(w.t)
	w.net.route(inner(1), at)
	client = dial(w.t, w.forward(inner(1)))
	srv = <-conns
	_ = srv.SetDeadline(time.Now().Add(20 * time.Second))
	// The server sees a connection before the relay does; tests speak of one that is carried.
	eventually(w.t, "the connection is carried", func() bool { return w.row(Outbound, "one", TCP).Open > 0 })
	return client, srv
}

// wantDialReset connects and expects a reset, which may come before connect has returned.
func wantDialReset(t *testing.T, at netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wantReset(t, c)
}

func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		_, err := c.Read(make([]byte, 1<<16))
		if err == nil {
			continue
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Timeout() {
			t.Fatalf("want a reset, got %v", err)
		}
		return
	}
}
