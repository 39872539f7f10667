package conformance

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

func testSetInterface(t *testing.T, r *room) {
	a, b := r.pair()
	count, stop := numbered(t, a, b)
	for _, mtu := range []int{1280, 1420, 1300} {
		a.set(datapath.Interface{Addresses: append(prefixes("10.9.0.200/24"), netip.PrefixFrom(a.v4, 24)), MTU: mtu})
		goesOn(r, count)
	}
	stop()
	for _, bad := range badInterfaces {
		if err := a.SetInterface(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

var badInterfaces = []datapath.Interface{
	{MTU: 1279}, {MTU: 65456},
	{MTU: 1420, Addresses: prefixes("127.0.0.1/8")},
	{MTU: 1420, Addresses: prefixes("169.254.1.1/16")},
	{MTU: 1420, Addresses: prefixes("::ffff:10.0.0.1/128")},
	{MTU: 1420, Addresses: prefixes("10.0.0.1/8", "10.0.0.1/24")},
}

// testAddressGoes takes an address away from under a connection.
func testAddressGoes(t *testing.T, r *room) {
	a, b := r.pair()
	b.accept(echo)
	c := a.dial(b.v4)
	_, _ = io.WriteString(c, "x")
	_, _ = c.Read(make([]byte, 1))
	a.set(datapath.Interface{Addresses: prefixes("10.9.0.66/24"), MTU: mtu})
	_ = c.SetReadDeadline(time.Now().Add(patience))
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("read: %v, want the end of the connection", err)
	}
	a.set(a.iface(mtu))
	a.say(b.v4, "back")
}

// testForeignSource lets a use an inner address that b has not allowed it.
func testForeignSource(t *testing.T, r *room) {
	a, b := r.pair()
	b.accept(echo)
	a.say(b.v4, "the tunnel works")
	a.set(datapath.Interface{Addresses: prefixes("10.9.0.66/24"), MTU: mtu})
	b.HandleTCP(func(q datapath.TCPRequest) { t.Errorf("request from %s", q.Remote()); q.Refuse() })
	c, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := a.DialTCP(c, netip.AddrPortFrom(b.v4, 80)); err == nil {
		t.Fatal("connected")
	}
}

// testCloseUnderLoad closes either end while streams and datagrams run both ways.
func testCloseUnderLoad(t *testing.T, r *room) {
	for _, which := range []string{"sender", "receiver"} {
		t.Run(which, func(t *testing.T) { closeUnderLoad(t, &room{t, r.lab}, which) })
	}
}

func closeUnderLoad(t *testing.T, r *room, which string) {
	a, b := r.pair()
	b.echoUDP()
	b.accept(echo)
	ended := make(chan struct{}, 20)
	for range 8 {
		c := a.dial(b.v4)
		go func() { _, _ = io.Copy(io.Discard, c); ended <- struct{}{} }()
		go func() { _, _ = io.Copy(c, source(1)); ended <- struct{}{} }()
	}
	u := a.dialUDP(b.v6, 53)
	_ = u.SetDeadline(time.Time{})
	go func() { _, _ = io.Copy(u, source(2)) }()
	time.Sleep(200 * time.Millisecond)
	map[string]*node{"sender": a, "receiver": b}[which].close()
	a.close() // streams of the survivor end by reset or, should that be lost, by its own close
	within(t, "the streams' end", func() {
		for range 16 {
			<-ended
		}
	})
	_ = u.Close()
	b.close()
}

// testPeersLearnOfClose shows that a connection does not hang when the other device goes.
func testPeersLearnOfClose(t *testing.T, r *room) {
	a, b := r.pair()
	hold := make(chan datapath.Stream, 1)
	b.accept(func(c datapath.Stream) { hold <- c })
	c := a.dial(b.v4)
	<-hold
	b.close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v, want ECONNRESET", err)
	}
}

// testClosed shows that a closed device says so.
func testClosed(t *testing.T, r *room) {
	a, b := r.pair()
	a.close()
	a.close()
	to := netip.AddrPortFrom(b.v4, 80)
	if _, err := a.DialTCP(context.Background(), to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("DialTCP: %v", err)
	}
	if _, err := a.DialUDP(context.Background(), to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("DialUDP: %v", err)
	}
	if err := a.UpdatePeers(nil, []key.Public{b.priv.Public()}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("UpdatePeers: %v", err)
	}
	if err := a.SetInterface(a.iface(mtu)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetInterface: %v", err)
	}
	a.HandleTCP(func(q datapath.TCPRequest) { q.Refuse() })
	a.HandleUDP(nil)
}

func testOpenRefuses(t *testing.T, r *room) {
	good := datapath.Interface{Addresses: prefixes("10.0.0.1/32"), MTU: mtu}
	refuse := func(what string, o Options) {
		if d, err := r.lab.Open(o); err == nil {
			_ = d.Close()
			t.Error(what + " was accepted")
		}
	}
	refuse("no private key", Options{Host: 1, Interface: good})
	for _, bad := range badInterfaces {
		refuse("a bad interface", Options{Host: 1, PrivateKey: key.NewPrivate(), Interface: bad})
	}
	var taken net.PacketConn
	r.lab.Do(1, func() { taken, _ = net.ListenPacket("udp4", "0.0.0.0:0") })
	defer taken.Close()
	port := taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	refuse("a port in use", Options{Host: 1, PrivateKey: key.NewPrivate(), Interface: good, ListenPort: port})
	r.open(1) // what was refused has left nothing behind
}

// testNothingIsLeft opens and closes interfaces over and over: what one of them leaves behind is there as many times in the end. A real
// interface takes a tenth of a second, and has as many turns as fit into leakTime.
func testNothingIsLeft(t *testing.T, r *room) {
	const batch = 10 // whose cleanups hold on to what was opened
	run := func() { t.Run("cycles", func(t *testing.T) { openAndClose(&room{t, r.lab}, batch) }) }
	run()
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	cycles := 0
	for began := time.Now(); cycles < short(1000, 20) && (cycles < leastCycles || time.Since(began) < leakTime); cycles += batch {
		run()
	}
	t.Logf("%d cycles", cycles)
	few := func(what string, before int, now func() int) {
		t.Helper()
		for end := time.Now().Add(patience); now() > before+leakTolerance; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d %s before, %d after %d cycles\n%s", before, what, now(), cycles, stacks())
			}
		}
	}
	few("goroutines", goroutines, runtime.NumGoroutine)
	few("descriptors", descriptors, func() int { return openDescriptors(t) })
}

const (
	leakTime      = 20 * time.Second
	leastCycles   = 20
	leakTolerance = leastCycles / 2 // the runtime's own come and go; one for each cycle is more
)

func openAndClose(r *room, times int) {
	for range times {
		a, b := r.pair()
		b.accept(echo)
		b.echoUDP()
		a.say(b.v4, "x")
		a.close()
		b.close()
	}
}

// openDescriptors is how many the process has; zero where the system does not say.
func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return len(all)
}

func stacks() []byte {
	buf := make([]byte, 1<<20)
	return buf[:runtime.Stack(buf, true)]
}
