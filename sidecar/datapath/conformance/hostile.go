package conformance

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// tally is what a node had dropped at some time.
type tally struct {
	r   *room
	n   *node
	was map[string]uint64
}

func (n *node) tally(r *room) tally { return tally{r, n, n.Drops()} }

func (c tally) since(why string) uint64 { return c.n.Drops()[why] - c.was[why] }

// grows waits until so many more were dropped for a reason, and fails if it is more than that.
func (c tally) grows(why string, by int) {
	c.r.t.Helper()
	for end := time.Now().Add(patience); c.since(why) < uint64(by) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := c.since(why); got != uint64(by) {
		c.r.t.Fatalf("%d were dropped as %s, want %d; all before %v, and now %v", got, why, by, c.was, c.n.Drops())
	}
}

// refuseAll opens a port of each kind, and fails the test when somebody comes through.
func (n *node) refuseAll(t *testing.T) {
	n.openTCP(webPort)
	n.openUDP(namePort)
	n.HandleTCP(func(q datapath.TCPRequest) { t.Errorf("request from %s to %s", q.Remote(), q.Local()); q.Refuse() })
	n.HandleUDP(func(q datapath.UDPRequest) { t.Errorf("datagram from %s to %s", q.Remote(), q.Local()); q.Refuse() })
}

// own is n's address of the other's family.
func (n *node) own(like netip.Addr) netip.Addr {
	if like.Is4() {
		return n.v4
	}
	return n.v6
}

// each is one packet of each protocol: a request for an open port each, and for an echo.
func each(from, to netip.Addr) [][]byte {
	return [][]byte{packet(from, to, protoTCP, synTo(from, to, webPort)), packet(from, to, protoUDP, udpTo(from, to, namePort)),
		packet(from, to, icmpOf(to), echoRequest(from, to, []byte("spoofed")))}
}

// quiet is a while that is far longer than an answer takes.
const quiet = 300 * time.Millisecond

// hearsNothing fails the test if the peer is told anything within a while.
func (p *rawPeer) hearsNothing() {
	p.r.t.Helper()
	if got := p.receive(quiet, p.unasked); got != nil {
		p.r.t.Errorf("a peer was sent %x", got)
	}
}

// testRawSpoofed sends from addresses that the peer may not use.
func testRawSpoofed(t *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	b.refuseAll(t)
	was, sent := b.tally(r), 0
	for _, s := range []string{"10.9.0.66", "10.9.0.2", "127.0.0.1", "0.0.0.0", "255.255.255.255", "fd09::66", "fd09::2", "::1", "fe80::1"} {
		from := netip.MustParseAddr(s)
		for _, spoofed := range each(from, b.own(from)) {
			p.send(spoofed)
			sent++
		}
	}
	was.grows(datapath.DropForeignSource, sent)
	p.hearsNothing()
}

// testRawSpoofsAnother sends from the addresses of another peer, which is there and talks meanwhile.
func testRawSpoofsAnother(t *testing.T, r *room) {
	b := r.open(2)
	other := r.rawOn(1, b, netip.PrefixFrom(inner4(1), 32), netip.PrefixFrom(inner6(1), 128))
	p := r.raw(b)
	b.refuseAll(t)
	home := b.endpoint(other.self)
	was, sent := b.tally(r), 0
	for _, from := range []netip.Addr{other.v4, other.v6} {
		to := b.own(from)
		for _, spoofed := range each(from, to) {
			p.send(spoofed)
			sent++
			other.send(packet(from, to, icmpOf(to), echoRequest(from, to, []byte("first"))))
			if other.receive(patience, isEcho(to, "first")) == nil {
				t.Fatal("the other peer has no answer any more")
			}
		}
	}
	was.grows(datapath.DropForeignSource, sent)
	other.hearsNothing()
	p.hearsNothing()
	if at := b.endpoint(other.self); at != home {
		t.Errorf("the other peer was at %s, and is taken to be at %s", home, at)
	}
}

// testRawSourceOfNobody sends from addresses that no peer can have, where the peer may use all.
func testRawSourceOfNobody(t *testing.T, r *room) {
	b := r.open(2)
	p := r.rawOn(3, b, prefixes("0.0.0.0/0", "::/0")...)
	b.refuseAll(t)
	ordinary := []string{"10.9.0.2", "169.254.169.254", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fd09::2", "fe80::1", "::", "::127.0.0.1"}
	martians := []string{"::1", "ff02::1"}
	was, sent := b.tally(r), 0
	for i, s := range append(martians, ordinary...) {
		from := netip.MustParseAddr(s)
		for _, spoofed := range each(from, b.own(from)) {
			p.send(spoofed)
			if i >= len(martians) || b.Capabilities().CountsMartians {
				sent++
			}
		}
	}
	was.grows(datapath.DropForeignSource, sent)
	p.hearsNothing()
}

// testRawReplayed has the network bring a message twice.
func testRawReplayed(t *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	was := b.tally(r)
	p.bind.next.Store(true)
	ask := func(data string) { p.send(packet(p.v4, b.v4, protoICMP, echoRequest(p.v4, b.v4, []byte(data)))) }
	ask("twice")
	if p.receive(patience, isEcho(b.v4, "twice")) == nil {
		t.Fatal("no answer")
	}
	ask("after") // what answers the second comes before what answers this
	again := false
	heard := p.receive(patience, func(got []byte) bool {
		again = again || isEcho(b.v4, "twice")(got)
		return isEcho(b.v4, "after")(got)
	})
	if heard == nil || again {
		t.Errorf("the message after it was answered: %t; what came twice was answered twice: %t", heard != nil, again)
	}
	if b.Capabilities().CountsMessages {
		was.grows(datapath.DropReplayed, 1)
	}
}

// testRawOverLimit begins more flows than a peer may have while none is answered, and sends more of one than are kept for it.
func testRawOverLimit(t *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	b.openUDP(namePort)
	hold := make(chan struct{})
	b.HandleUDP(func(q datapath.UDPRequest) { <-hold; q.Refuse() })
	defer close(hold)
	begin := func(from uint16) { p.send(packet(p.v4, b.v4, protoUDP, udpFrom(from, p.v4, b.v4, namePort))) }
	was := b.tally(r)
	const sent, kept = 100, 16
	for range sent {
		begin(1000)
	}
	was.grows(datapath.DropOverLimit, sent-kept)
	was = b.tally(r)
	for port := uint16(1001); was.since(datapath.DropOverLimit) == 0; { // each once: more of a flow would be too many of it
		if port > 60000 {
			t.Fatal("flows are never too many")
		}
		for range 256 {
			begin(port)
			port++
		}
	}
}

// testRawNotForUs sends to addresses that are not the interface's, among them others of the machine behind it, and nonsense.
func testRawNotForUs(t *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	b.refuseAll(t)
	var app net.Listener
	r.lab.Do(b.host, func() { app, _ = net.Listen("tcp", ":0") })
	if app != nil {
		defer app.Close()
	}
	was, sent := b.tally(r), 0
	for _, to := range r.strangers() {
		from := p.own(to)
		for _, stray := range append(each(from, to), packet(from, to, protoTCP, synTo(from, to, portOf(app)))) {
			p.send(stray)
			sent++
		}
		if to == netip.IPv6Loopback() && !b.Capabilities().CountsMartians {
			sent -= 4
		}
	}
	cut := packet(p.v4, b.v4, protoICMP, echoRequest(p.v4, b.v4, make([]byte, 100)))
	p.send(cut[:len(cut)-50]) // by more than WireGuard's padding puts back
	was.grows(datapath.DropForeignDestination, sent)
	was.grows(datapath.DropMalformed, 1)
	p.hearsNothing()
	p.handshake(b) // and it still works
	b.openTCP(81)  // and no number gets smaller with the rules that counted
	b.set(b.iface(mtu - 20))
	was.grows(datapath.DropForeignDestination, sent)
	was.grows(datapath.DropMalformed, 1)
}

// strangers are addresses that are not those of a node.
func (r *room) strangers() (out []netip.Addr) {
	for _, s := range []string{"10.9.0.77", "127.0.0.1", "169.254.169.254", "255.255.255.255", "224.0.0.1", "::1", "fd09::77", "ff02::1", "8.8.8.8"} {
		out = append(out, netip.MustParseAddr(s))
	}
	for host := 1; host <= 3; host++ {
		out = append(out, r.lab.Outer(host, false), r.lab.Outer(host, true))
	}
	return out
}

func portOf(l net.Listener) uint16 {
	if l == nil {
		return 81
	}
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// endpoint is where the node takes a peer to be.
func (n *node) endpoint(of key.Public) netip.AddrPort {
	n.r.t.Helper()
	all, err := n.Peers()
	i := slices.IndexFunc(all, func(p datapath.PeerStats) bool { return p.PublicKey == of })
	if err != nil || i < 0 {
		n.r.t.Fatalf("peer %s: not among %v, %v", of, all, err)
	}
	return all[i].Endpoint
}
