package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// serveFar has the host at the other end echo by TCP and UDP, and counts whom it sees.
func (l *lab) serveFar(t *testing.T) <-chan netip.AddrPort {
	t.Helper()
	seen := make(chan netip.AddrPort, 64)
	l.far.HandleTCP(func(q datapath.TCPRequest) {
		seen <- q.Remote()
		s, err := q.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		_, _ = io.Copy(s, s)
	})
	l.far.HandleUDP(func(q datapath.UDPRequest) {
		seen <- q.Remote()
		c, err := q.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1500)
		for {
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
			n, err := c.Read(b)
			if err != nil {
				return
			}
			_, _ = c.Write(b[:n])
		}
	})
	return seen
}

// podAt asks as the pod of an address does.
func podAt(src, network string, at netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	if from := netip.AddrPortFrom(netip.MustParseAddr(src), 0); network == "tcp" {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	} else {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	c, err := d.Dial(network, at.String())
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	}
	return c, err
}

func hello(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		return fmt.Errorf("%q: %w", b, err)
	}
	return nil
}

func asksFrom(src, network string, at netip.AddrPort) error {
	c, err := podAt(src, network, at)
	if err != nil {
		return err
	}
	defer c.Close()
	return hello(c)
}

// A gateway carries what pods without a sidecar send it: once it is active, for those that are listed, from its own tunnel address, and
// as long as the coordinator says so. What changes about one port or pod disturbs no other.
func TestRelays(t *testing.T) {
	l := newLab(t)
	seen := l.serveFar(t)
	active := make(chan struct{})
	l.opts.Active, l.opts.Relays, l.opts.KeyFile = active, true, filepath.Join(t.TempDir(), "private")
	must(t, os.WriteFile(l.opts.KeyFile, []byte(key.NewPrivate().Reveal()+"\n"), 0o600))
	l.start(t)
	s := l.c.next(t, "")
	host := func(network string, target bool) wire.Relay {
		r := wire.Relay{Listen: freePort(t, network), ServiceID: wire.ServiceID{Name: "db", Port: 5432, Protocol: wire.Protocol(strings.ToUpper(network))}}
		if target {
			r.Target = netip.AddrPortFrom(farAddress.Addr(), r.Port)
		}
		return r
	}
	tcp, udp, nowhere := host("tcp", true), host("udp", true), host("tcp", false)
	nowhere.Name = "nowhere"
	at := func(r wire.Relay) netip.AddrPort { return netip.AddrPortFrom(l.opts.PodIP, r.Listen) }
	config := func(clients string, relays ...wire.Relay) wire.Config {
		c := l.config()
		c.Inbound, c.Interface.Hub, c.Peers[0].Outside, c.Relays = nil, true, true, relays
		for a := range strings.FieldsSeq(clients) {
			c.Clients = append(c.Clients, netip.MustParseAddr(a))
		}
		c.Sort()
		return c
	}
	first := config("127.0.0.2 127.0.0.3", tcp, udp, nowhere)
	s.send(t, snapshot(first))
	l.c.reported(t, false)
	if c, err := podAt("127.0.0.2", "tcp", at(tcp)); err == nil {
		_ = c.Close()
		t.Error("it listens while it stands by")
	}
	close(active)
	l.c.reported(t, true)
	for _, network := range []string{"tcp", "udp"} {
		r := map[string]wire.Relay{"tcp": tcp, "udp": udp}[network]
		eventually(t, network+" is carried", func() error { return asksFrom("127.0.0.2", network, at(r)) })
		if from := <-seen; from.Addr() != memberAddress.Addr() {
			t.Errorf("%s comes from %s, want the tunnel address %s", network, from, memberAddress)
		}
		if err := asksFrom("127.0.0.4", network, at(r)); err == nil {
			t.Errorf("%s of a pod that is not listed is carried", network)
		}
	}
	if err := asksFrom("127.0.0.2", "tcp", at(nowhere)); err == nil {
		t.Error("an answer from where no peer has a route to")
	}

	kept, err := podAt("127.0.0.2", "tcp", at(tcp))
	must(t, err)
	defer kept.Close()
	must(t, hello(kept))
	leaves, err := podAt("127.0.0.3", "tcp", at(tcp))
	must(t, err)
	defer leaves.Close()
	must(t, hello(leaves))
	second := config("127.0.0.2 127.0.0.4", tcp)
	s.send(t, delta(first, second))
	eventually(t, "the new pod is carried", func() error { return asksFrom("127.0.0.4", "tcp", at(tcp)) })
	eventually(t, "a pod that is not listed any more is cut off", func() error { // the new one is let in a moment before that
		if hello(leaves) == nil {
			return errors.New("it goes on")
		}
		return nil
	})
	eventually(t, "the port that went is closed", func() error {
		if asksFrom("127.0.0.2", "udp", at(udp)) == nil {
			return errors.New("still open")
		}
		return nil
	})
	must(t, hello(kept))
	text := ""
	if _, text, err = l.health("/metrics"); err != nil || !strings.Contains(text, `tenantwire_relay_failures_total{direction="Relayed",name="db:5432/TCP",protocol="TCP",reason="NotAllowed"} `) {
		t.Errorf("metrics: %v\n%s", err, text)
	}

	third := config("")
	s.send(t, delta(second, third))
	eventually(t, "all is closed", func() error {
		if hello(kept) == nil {
			return errors.New("still carried")
		}
		return nil
	})
	l.stop(t)
}

// Who is about to take over is ready, and who connects waits until it has. When nothing comes of it, it is as before.
func TestAboutToTakeOver(t *testing.T) {
	l := newLab(t)
	l.serveFar(t)
	active, soon := make(chan struct{}), make(chan bool)
	l.opts.Active, l.opts.Soon, l.opts.Relays, l.opts.KeyFile = active, soon, true, filepath.Join(t.TempDir(), "private")
	must(t, os.WriteFile(l.opts.KeyFile, []byte(key.NewPrivate().Reveal()+"\n"), 0o600))
	c := l.config()
	c.Inbound, c.Interface.Hub, c.Peers[0].Outside, c.Clients = nil, true, true, []netip.Addr{netip.MustParseAddr("127.0.0.2")}
	c.Relays = []wire.Relay{{Listen: freePort(t, "tcp"), ServiceID: wire.ServiceID{Name: "db", Port: 5432, Protocol: wire.TCP}, Target: netip.AddrPortFrom(farAddress.Addr(), 5432)}}
	at := netip.AddrPortFrom(l.opts.PodIP, c.Relays[0].Listen)
	prepared := make(chan struct{})
	l.opts.Prepared = func() { close(prepared) }
	var foretold atomic.Int64
	l.opts.Foretold = func() { foretold.Add(1) }
	l.start(t)
	l.c.next(t, "").send(t, snapshot(c))
	<-prepared
	if _, text, _ := l.health("/readyz"); foretold.Load() != 0 {
		t.Errorf("foretold while it %s", text)
	}
	says := func(want string) {
		t.Helper()
		eventually(t, "ready: "+want, func() error {
			if _, text, err := l.health("/readyz"); err != nil || !strings.Contains(text, want) {
				return fmt.Errorf("%q %w", text, err)
			}
			return nil
		})
	}
	early := func() net.Conn {
		t.Helper()
		c, err := podAt("127.0.0.2", "tcp", at)
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, err = io.WriteString(c, "early")
		must(t, err)
		return c
	}

	soon <- true
	says("about to take over")
	if foretold.Load() == 0 {
		t.Error("who asked was told, and nobody knows")
	}
	inVain := early()
	soon <- false
	says("stands by")
	must(t, inVain.SetDeadline(time.Now().Add(patience)))
	if n, err := inVain.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes from nobody", n)
	}
	if c, err := podAt("127.0.0.2", "tcp", at); err == nil {
		_ = c.Close()
		t.Error("it listens while it stands by")
	}

	soon <- true
	says("about to take over")
	if up, why := l.far.Peers(); up[0].RxBytes != 0 {
		t.Errorf("it sends before its turn: %v", why)
	}
	waits := early()
	close(active)
	says("data path up")
	must(t, waits.SetDeadline(time.Now().Add(patience)))
	b := make([]byte, 5)
	if _, err := io.ReadFull(waits, b); err != nil || string(b) != "early" {
		t.Errorf("%q %v", b, err)
	}
	l.stop(t)
}

// A member's pod opens nothing to others, even if it is told to.
func TestMembersDoNotRelay(t *testing.T) {
	l := newLab(t)
	l.serveFar(t)
	l.start(t)
	s := l.c.next(t, "")
	c := l.config()
	c.Interface.Hub, c.Clients = true, []netip.Addr{netip.MustParseAddr("127.0.0.2")}
	c.Relays = []wire.Relay{{Listen: freePort(t, "tcp"), ServiceID: wire.ServiceID{Name: "db", Port: 5432, Protocol: wire.TCP}, Target: netip.AddrPortFrom(farAddress.Addr(), 5432)}}
	s.send(t, snapshot(c))
	l.c.reported(t, true)
	if c, err := podAt("127.0.0.2", "tcp", netip.AddrPortFrom(l.opts.PodIP, c.Relays[0].Listen)); err == nil {
		_ = c.Close()
		t.Error("it listens")
	}
	l.stop(t)
}
