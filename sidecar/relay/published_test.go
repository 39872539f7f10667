package relay

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/netstack"
)

var webAddress, mailAddress = netip.MustParseAddr("10.9.0.200"), netip.MustParseAddr("fd09::200")

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// pod is the n-th pod without a sidecar.
func pod(n byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, n}), 8080)
}

// withPods gives the world pods that the relay's own network leads to.
func (w *world) withPods() *fakeNet {
	pods := newFakeNet(kernelMode)
	w.r.inbound.pods = pods
	return pods
}

func (w *world) publish(all ...Published) {
	w.t.Helper()
	if err := w.r.SetPublished(all); err != nil {
		w.t.Fatal(err)
	}
}

func web(inside, outside []netip.AddrPort) Published {
	return Published{Name: "web", Addresses: []netip.Addr{webAddress}, Port: 80, Protocol: TCP, Inside: inside, Outside: outside}
}

// says answers each connection with a name, and then with what it is sent.
func says(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = io.WriteString(c, name)
		echo(c)
	}
}

func TestPublishedTCP(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		pods := w.withPods()
		w.net.route(inner(1), server(t, echo))
		pods.route(pod(1), server(t, echo))
		for _, p := range []Published{web([]netip.AddrPort{inner(1)}, nil), web(nil, []netip.AddrPort{pod(1)})} {
			w.publish(p)
			peer := w.net.connectAt(peerA, at(webAddress, 80))
			if peer == nil {
				t.Fatalf("refused: %+v", p)
			}
			sent := random(2 << 20)
			go func() { _, _ = peer.Write(sent); _ = peer.CloseWrite() }()
			if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			_ = peer.Close()
		}
		eventually(t, "stats", func() bool { return w.row(Accepted, "web:80", TCP).Open == 0 })
		if row := w.row(Accepted, "web:80", TCP); row.Total != 2 || row.Up != 4<<20 || row.Down != 4<<20 {
			t.Errorf("%+v", row)
		}
	})
}

// Both kinds of targets get their share, whoever does not answer is passed over, and one address inside and outside is two targets.
func TestPublishedBalances(t *testing.T) {
	w := newWorld(t, kernelMode)
	pods := w.withPods()
	w.net.route(pod(1), server(t, says("inside")))
	pods.route(pod(1), server(t, says("outside"))) // the same address
	w.publish(web([]netip.AddrPort{pod(1), inner(9)}, []netip.AddrPort{pod(1), pod(9)}))
	seen := map[string]int{}
	for i := range 200 {
		peer := w.net.connectAt(peerA, at(webAddress, 80))
		if peer == nil {
			t.Fatalf("connection %d is refused", i)
		}
		_ = peer.CloseWrite()
		got, err := io.ReadAll(peer)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(got)]++
		_ = peer.Close()
	}
	if seen["inside"] < 20 || seen["outside"] < 20 || len(seen) != 2 {
		t.Errorf("%v", seen)
	}
	if w.net.dialled(inner(9)) > 100 || pods.dialled(pod(9)) > 100 {
		t.Errorf("those that do not answer were tried %d and %d times", w.net.dialled(inner(9)), pods.dialled(pod(9)))
	}
}

// Nothing but what is published is open at a Service's address, and nothing of it is at any other.
func TestPublishedRefuses(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), server(t, says("web")))
	w.net.route(inner(2), server(t, says("mail")))
	w.inbound(Inbound{Port: 53, Protocol: TCP, To: server(t, says("names"))}, Inbound{Port: 80, Protocol: TCP, To: server(t, says("own"))})
	w.publish(web([]netip.AddrPort{inner(1)}, nil), Published{Name: "mail", Addresses: []netip.Addr{mailAddress}, Port: 25, Protocol: TCP, Inside: []netip.AddrPort{inner(2)}},
		Published{Name: "web", Addresses: []netip.Addr{webAddress}, Port: 81, Protocol: TCP})
	other := netip.MustParseAddr("10.9.0.1")
	for _, c := range []struct {
		to   netip.AddrPort
		want string // empty: refused
	}{
		{at(webAddress, 80), "web"},
		{at(mailAddress, 25), "mail"},
		{at(other, 53), "names"},
		{at(other, 80), "own"},
		{at(webAddress, 53), ""},
		{at(webAddress, 25), ""},
		{at(webAddress, 81), ""}, // nobody is behind it
		{at(webAddress, 8080), ""},
		{at(mailAddress, 80), ""},
		{at(mailAddress, 53), ""},
		{at(other, 25), ""},
		{at(netip.MustParseAddr("fd09::1"), 25), ""},
	} {
		peer := w.net.connectAt(peerA, c.to)
		if peer == nil {
			if c.want != "" {
				t.Errorf("%s is refused", c.to)
			}
			continue
		}
		_ = peer.CloseWrite()
		if got, _ := io.ReadAll(peer); string(got) != c.want || c.want == "" {
			t.Errorf("%s answers %q, want %q", c.to, got, c.want)
		}
		_ = peer.Close()
	}
	if row := w.row(Accepted, "web:81", TCP); row.Failures[NoTargets] != 1 {
		t.Errorf("%+v", row)
	}
	if w.net.sendAt(t, at(peerA, 1000), at(webAddress, 80), []byte("x")) != nil {
		t.Error("another protocol is answered for")
	}
}

// Connections end with their port, with their source's right to it, and when the address is another Service's; not when other things
// change.
func TestPublishedRevoked(t *testing.T) {
	var denied atomic.Bool
	w := newWorld(t, kernelMode, func(o *Options) {
		o.AllowInbound = func(src, at netip.Addr, port uint16, proto Protocol) bool {
			return at != webAddress || src == peerA || !denied.Load()
		}
	})
	w.net.route(inner(1), server(t, echo))
	w.net.route(inner(2), server(t, echo))
	w.inbound(Inbound{Port: 53, Protocol: TCP, To: server(t, echo)})
	mail := Published{Name: "mail", Addresses: []netip.Addr{mailAddress}, Port: 25, Protocol: TCP, Inside: []netip.AddrPort{inner(1)}}
	w.publish(web([]netip.AddrPort{inner(1)}, nil), mail)
	connect := func(src netip.Addr, to netip.AddrPort) *net.TCPConn {
		t.Helper()
		c := w.net.connectAt(src, to)
		if c == nil {
			t.Fatalf("%s refuses %s", to, src)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	alive := func(what string, c net.Conn) {
		t.Helper()
		if got := string(ask(t, c, []byte("alive"))); got != "alive" {
			t.Errorf("%s: %q", what, got)
		}
	}
	a, b, post, names := connect(peerA, at(webAddress, 80)), connect(peerB, at(webAddress, 80)), connect(peerB, at(mailAddress, 25)), connect(peerB, netip.MustParseAddrPort("10.9.0.1:53"))
	denied.Store(true)
	w.publish(web([]netip.AddrPort{inner(2)}, nil), mail) // another target: for new connections
	wantReset(t, b)
	alive("who is allowed still", a)
	alive("another Service", post)
	w.inbound(Inbound{Port: 53, Protocol: TCP, To: server(t, echo)})
	alive("after a change of other ports", a)
	w.publish(mail)
	wantReset(t, a)
	mail.Name = "newmail"
	w.publish(mail)
	wantReset(t, post)
	alive("no Service's", names)
	w.publish()
	if w.net.connectAt(peerA, at(mailAddress, 25)) != nil {
		t.Error("answered for what is not published any more")
	}
}

func TestPublishedUDP(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		pods := w.withPods()
		w.net.route(inner(1), udpServer(t, "inside "))
		pods.route(pod(1), udpServer(t, "outside "))
		dns := Published{Name: "dns", Addresses: []netip.Addr{webAddress}, Port: 5353, Protocol: UDP, Inside: []netip.AddrPort{inner(1)}}
		w.publish(dns)
		from := at(peerA, 1000)
		peer := w.net.sendAt(t, from, at(webAddress, 5353), []byte("x"))
		if peer == nil {
			t.Fatal("refused")
		}
		if got := receive(t, peer); string(got) != "inside x" {
			t.Errorf("%q", got)
		}
		if got := ask(t, peer, []byte("y")); string(got) != "inside y" {
			t.Errorf("%q", got)
		}
		for _, to := range []netip.AddrPort{at(webAddress, 53), at(mailAddress, 5353), netip.MustParseAddrPort("10.9.0.1:5353")} {
			if w.net.sendAt(t, from, to, nil) != nil {
				t.Errorf("%s is answered for", to)
			}
		}
		// Its target is gone: the flow ends, and the next one finds the other.
		dns.Inside, dns.Outside = nil, []netip.AddrPort{pod(1)}
		w.publish(dns)
		eventually(t, "the flow ends with its target", func() bool { return w.r.inbound.table.size() == 0 })
		if peer = w.net.sendAt(t, from, at(webAddress, 5353), []byte("x")); peer == nil {
			t.Fatal("refused")
		}
		if got := receive(t, peer); string(got) != "outside x" {
			t.Errorf("%q", got)
		}
		w.publish(dns)
		if got := ask(t, peer, []byte("y")); string(got) != "outside y" {
			t.Errorf("after a change of nothing: %q", got)
		}
		w.publish()
		eventually(t, "the flow ends with its port", func() bool { return w.r.inbound.table.size() == 0 })
	})
}

// A target that answers "unreachable" is tried last for a while: the client's next datagram finds another.
func TestPublishedUDPRefused(t *testing.T) {
	w := newWorld(t, kernelMode)
	w.net.route(inner(1), freePort(t, UDP))
	w.net.route(inner(2), udpServer(t, ""))
	w.publish(Published{Name: "dns", Addresses: []netip.Addr{webAddress}, Port: 5353, Protocol: UDP, Inside: []netip.AddrPort{inner(1), inner(2)}})
	for i := range 40 {
		peer := w.net.sendAt(t, at(peerA, uint16(1000+i)), at(webAddress, 5353), []byte("x"))
		if peer == nil {
			t.Fatal("refused")
		}
		eventually(t, "an answer", func() bool {
			_ = peer.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if n, err := peer.Read(make([]byte, 8)); err == nil && n == 1 {
				return true
			}
			peer = w.net.sendAt(t, at(peerA, uint16(1000+i)), at(webAddress, 5353), []byte("x"))
			return false
		})
	}
}

// What one source may hold counts for published ports and others alike.
func TestPublishedCaps(t *testing.T) {
	w := newWorld(t, kernelMode, func(o *Options) { o.Limits.ConnectionsPerPeer, o.Limits.FlowsPerPeer = 2, 1 })
	w.net.route(inner(1), server(t, echo))
	w.net.route(inner(2), udpServer(t, ""))
	w.inbound(Inbound{Port: 53, Protocol: TCP, To: server(t, echo)})
	w.publish(web([]netip.AddrPort{inner(1)}, nil), Published{Name: "web", Addresses: []netip.Addr{webAddress}, Port: 5353, Protocol: UDP, Inside: []netip.AddrPort{inner(2)}})
	one, two := w.net.connectAt(peerA, at(webAddress, 80)), w.net.connect(peerA, 53)
	defer one.Close()
	defer two.Close()
	if w.net.connectAt(peerA, at(webAddress, 80)) != nil {
		t.Error("a third connection was accepted")
	}
	if c := w.net.connectAt(peerB, at(webAddress, 80)); c == nil {
		t.Error("another peer suffers")
	} else {
		_ = c.Close()
	}
	if w.net.sendAt(t, at(peerA, 1000), at(webAddress, 5353), nil) == nil || w.net.sendAt(t, at(peerA, 1001), at(webAddress, 5353), nil) != nil {
		t.Error("a second flow was accepted, or the first was not")
	}
}

func TestPublishedBadEntries(t *testing.T) {
	own := netip.MustParseAddr("10.244.0.99")
	w := newWorld(t, kernelMode, func(o *Options) { o.OwnAddresses = func() ([]netip.Addr, error) { return []netip.Addr{own}, nil } })
	pods := w.withPods()
	w.net.route(inner(1), server(t, echo))
	bad := []string{"127.0.0.1:80", "[::1]:80", "169.254.169.254:80", "[fe80::1]:80", "224.0.0.1:80", "[ff02::1]:80", "0.0.0.0:80", "[::]:80", "255.255.255.255:80", "0.1.2.3:80",
		"[::ffff:10.244.0.1]:80", "[::ffff:127.0.0.1]:80", "[::7f00:1]:80", "[fe80::1%eth0]:80", "10.244.0.99:51821", "10.244.0.1:0"}
	all := []Published{web([]netip.AddrPort{inner(1)}, nil)}
	for _, s := range bad {
		to := netip.MustParseAddrPort(s)
		pods.route(to, server(t, echo))
		all[0].Outside = append(all[0].Outside, to)
	}
	base := Published{Name: "x", Addresses: []netip.Addr{mailAddress}, Port: 1, Protocol: TCP}
	for _, change := range []func(*Published){
		func(p *Published) { p.Name = "" },
		func(p *Published) { p.Port = 0 },
		func(p *Published) { p.Protocol = "SCTP" },
		func(p *Published) { p.Addresses = []netip.Addr{webAddress} },
		func(p *Published) { p.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
		func(p *Published) { p.Inside = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")} },
		func(p *Published) { p.Addresses = []netip.Addr{mailAddress, mailAddress} },
	} {
		p := base
		change(&p)
		all = append(all, p)
	}
	err := w.r.SetPublished(all)
	for _, want := range append(bad[:len(bad):len(bad)], "name is not set", "port is not set", `"SCTP"`, "belongs to web", "x:1 TCP: 127.0.0.1:", "x:1 TCP: target 127.0.0.1:80", "listed twice") {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	for range 50 {
		if c := w.net.connectAt(peerA, at(webAddress, 80)); c == nil {
			t.Fatal("the good entry was refused")
		} else {
			_ = c.Close()
		}
	}
	for _, s := range bad {
		if n := pods.dialled(netip.MustParseAddrPort(s)); n > 0 {
			t.Errorf("%s was dialled", s)
		}
	}
}

// On a real stack: a client's connections and datagrams come in by a Service's address and go out to a member, resets and all.
func TestPublishedNetstack(t *testing.T) {
	own, vip := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.200")
	s := must(netstack.New(netstack.Options{Interface: datapath.Interface{MTU: 1420, Addresses: []netip.Prefix{netip.PrefixFrom(own, 32), netip.PrefixFrom(vip, 32)}}}))
	r := New(Options{Network: s})
	t.Cleanup(func() { _ = r.Close(); _ = s.Close() })
	backend, conns := accepted(t)
	in := []Inbound{{Port: 8080, Protocol: TCP, To: backend}, {Port: 8080, Protocol: UDP, To: udpServer(t, "")}}
	if err := r.SetInbound(in); err != nil { // it is its own member
		t.Fatal(err)
	}
	var all []Published
	for _, proto := range []Protocol{TCP, UDP} {
		all = append(all, Published{Name: "web", Addresses: []netip.Addr{vip}, Port: 80, Protocol: proto, Inside: []netip.AddrPort{at(own, 8080)}})
	}
	if err := r.SetPublished(all); err != nil {
		t.Fatal(err)
	}
	c := must(s.DialTCP(t.Context(), at(vip, 80)))
	far := <-conns
	sent := random(4 << 20)
	go func() { _, _ = c.Write(sent); _ = c.CloseWrite() }()
	if got, err := io.ReadAll(far); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	must(far.Write([]byte("after the client's end")))
	_ = far.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "after the client's end" {
		t.Errorf("%q, %v", got, err)
	}
	_ = c.Close()
	c = must(s.DialTCP(t.Context(), at(vip, 80)))
	abort(<-conns)
	wantReset(t, c)
	for _, to := range []netip.AddrPort{at(vip, 8080), at(own, 80)} {
		if c, err := s.DialTCP(t.Context(), to); err == nil {
			c.Abort()
			t.Errorf("%s is open", to)
		}
	}
	u := must(s.DialUDP(t.Context(), at(vip, 80)))
	defer u.Close()
	if got := ask(t, u, []byte("datagram")); string(got) != "datagram" {
		t.Errorf("%q", got)
	}
	eventually(t, "all are forgotten", func() bool { return r.Stats().Connections == 0 })
}
