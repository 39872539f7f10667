package conformance

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/guest"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// patience bounds every wait for what must happen; what passes does not come near it.
var patience = func() time.Duration {
	if guest.Inside() { // emulated, and maybe with little of a CPU
		return 2 * time.Minute
	}
	return 30 * time.Second
}()

// The ports that something answers on; the numbers above them refuse.
const (
	webPort  = 80 // TCP
	namePort = 53 // UDP
)

// mtu of the interfaces unless a test says otherwise.
const mtu = 1420

// room is one test's Lab with what the tests share.
type room struct {
	t   *testing.T
	lab Lab
}

func newRoom(t *testing.T, lab Lab) *room { return &room{t, lab} }

// node is an open datapath with what its peers need to know of it.
type node struct {
	datapath.Datapath
	r      *room
	host   int
	priv   key.Private
	v4, v6 netip.Addr
	ports  datapath.Ports
}

func inner4(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("10.9.0.%d", i)) }
func inner6(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd09::%d", i)) }

// open makes the node of a host: 10.9.0.i and fd09::i.
func (r *room) open(host int) *node { return r.openAs(host, host, key.NewPrivate(), 0) }

// openAs makes a node with the addresses of i and the given key and port.
func (r *room) openAs(host, i int, priv key.Private, port uint16) *node {
	r.t.Helper()
	n := &node{r: r, host: host, priv: priv, v4: inner4(i), v6: inner6(i)}
	var err error
	n.Datapath, err = r.lab.Open(Options{Host: host, PrivateKey: n.priv, ListenPort: port, Interface: n.iface(mtu)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { n.close() })
	return n
}

func (n *node) iface(mtu int) datapath.Interface {
	return datapath.Interface{Addresses: []netip.Prefix{netip.PrefixFrom(n.v4, 24), netip.PrefixFrom(n.v6, 64)}, MTU: mtu}
}

// close is safe to call twice, and fails the test where it hangs.
func (n *node) close() {
	n.r.t.Helper()
	within(n.r.t, "close", func() {
		if err := n.Close(); err != nil {
			n.r.t.Error("close:", err)
		}
	})
}

// as is n as a peer of another.
func (n *node) as() datapath.Peer { return n.at(false) }

func (n *node) at(six bool) datapath.Peer {
	return datapath.Peer{
		PublicKey:  n.priv.Public(),
		Endpoint:   netip.AddrPortFrom(n.r.lab.Outer(n.host, six), n.ListenPort()),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(n.v4, 32), netip.PrefixFrom(n.v6, 128)},
	}
}

func (n *node) update(upsert ...datapath.Peer) {
	n.r.t.Helper()
	if err := n.UpdatePeers(upsert, nil); err != nil {
		n.r.t.Fatal(err)
	}
}

func (n *node) set(i datapath.Interface) {
	n.r.t.Helper()
	if err := n.SetInterface(i); err != nil {
		n.r.t.Fatal(err)
	}
}

// peer is the statistics of the node's only peer.
func (n *node) peer() datapath.PeerStats {
	n.r.t.Helper()
	p, err := n.Peers()
	if err != nil || len(p) != 1 {
		n.r.t.Fatalf("peers: %+v, %v; want one", p, err)
	}
	return p[0]
}

// pair makes two nodes that know each other.
func (r *room) pair() (a, b *node) {
	r.t.Helper()
	a, b = r.open(1), r.open(2)
	a.update(b.as())
	b.update(a.as())
	return a, b
}

// gate opens ports, where they are shut until they are opened.
func (n *node) gate(change func(*datapath.Ports)) {
	n.r.t.Helper()
	change(&n.ports)
	if g, ok := n.Datapath.(datapath.Gate); ok {
		if err := g.OpenPorts(n.ports); err != nil {
			n.r.t.Fatal(err)
		}
	} else if !n.Capabilities().AsksFirst {
		n.r.t.Fatal("a datapath that does not ask first must be a Gate")
	}
}

func with(ports []uint16, p uint16) []uint16 {
	if slices.Contains(ports, p) {
		return ports
	}
	return append(ports, p)
}

func (n *node) openTCP(port uint16) {
	n.r.t.Helper()
	n.gate(func(p *datapath.Ports) { p.TCP = with(p.TCP, port) })
}

func (n *node) openUDP(port uint16) {
	n.r.t.Helper()
	n.gate(func(p *datapath.Ports) { p.UDP = with(p.UDP, port) })
}

// accept gives every connection to n on webPort to h and refuses the others.
func (n *node) accept(h func(datapath.Stream)) {
	n.r.t.Helper()
	n.openTCP(webPort)
	n.HandleTCP(func(q datapath.TCPRequest) {
		if q.Local().Port() != webPort {
			q.Refuse()
			return
		}
		if c, err := q.Accept(); err == nil {
			h(c)
		}
	})
}

func (n *node) dial(to netip.Addr) datapath.Stream {
	n.r.t.Helper()
	c, err := n.DialTCP(n.r.ctx(patience), netip.AddrPortFrom(to, webPort))
	if err != nil {
		n.r.t.Fatal(err)
	}
	n.r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (n *node) dialUDP(to netip.Addr, port uint16) net.Conn {
	n.r.t.Helper()
	c, err := n.DialUDP(n.r.ctx(time.Second), netip.AddrPortFrom(to, port))
	if err != nil {
		n.r.t.Fatal(err)
	}
	n.r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// echoUDP answers every datagram of every flow on namePort.
func (n *node) echoUDP() {
	n.r.t.Helper()
	n.openUDP(namePort)
	n.HandleUDP(func(q datapath.UDPRequest) {
		if q.Local().Port() != namePort {
			q.Refuse()
			return
		}
		c, err := q.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 65535)
		for {
			n, err := c.Read(buf)
			if err == nil {
				_, err = c.Write(buf[:n])
			}
			if err != nil {
				return
			}
		}
	})
}

// say sends words to an echo and expects them back.
func (n *node) say(to netip.Addr, words string) {
	n.r.t.Helper()
	c := n.dial(to)
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, words)
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != words {
		n.r.t.Fatalf("got %q, %v; want %q", got, err, words)
	}
	_ = c.Close()
}

func echo(c datapath.Stream) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
	_ = c.Close()
}

func (r *room) ctx(d time.Duration) context.Context {
	c, cancel := context.WithTimeout(context.Background(), d)
	r.t.Cleanup(cancel)
	return c
}

// within fails the test if f takes longer than patience: a deadlock must not hang the suite.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s took more than %s", what, patience)
	}
}

// eventually waits for f to be true.
func (r *room) eventually(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal("never: " + what)
		}
	}
}

// families runs f for both of the node's addresses.
func families(t *testing.T, n *node, f func(r *room, to netip.Addr)) {
	for name, to := range map[string]netip.Addr{"v4": n.v4, "v6": n.v6} {
		t.Run(name, func(t *testing.T) { f(&room{t, n.r.lab}, to) })
	}
}

// short is the full number, or the smaller one with -short.
func short(full, less int) int {
	if testing.Short() {
		return less
	}
	return full
}

// source is an endless stream of bytes that depend on the seed alone.
func source(seed uint64) io.Reader {
	var s [32]byte
	s[0] = byte(seed)
	return rand.NewChaCha8(s)
}

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(source(seed), b)
	return b
}

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(ss))
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
