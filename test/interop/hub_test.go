package interop

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestInteropHub has hosts with upstream WireGuard reach each other through our sidecar, which has no privileges: an outside host and
// another, but not two outside hosts. They have TCP/IP of their own, so every packet of theirs is as a kernel makes it.
func TestInteropHub(t *testing.T) {
	needLab(t)
	middle := newSidecar(t, newHost(t), newIdentity(1))
	middle.conf.Interface.Hub = true
	around := make([]*tunHost, 3)
	for i := range around {
		h, n := newHost(t), i+1
		connect(t, middle.host, h, n)
		around[i] = newTUN(t, h, newIdentity(n+1))
		middle.peer(around[i].identity, netip.Addr{}).Outside = i > 0
		around[i].wg(t, "peer", middle.private.Public().String(), "allowed-ips", "10.7.0.0/24,fd07::/64", "persistent-keepalive", "1",
			"endpoint", netip.AddrPortFrom(outer(n, 1, false), outerPort).String())
	}
	middle.run(t)
	inside, office, laptop := around[0], around[1], around[2]
	for _, six := range []bool{false, true} {
		at := func(w *tunHost) string { return netip.AddrPortFrom(w.inner(six), 0).String() }
		for _, way := range [][2]*tunHost{{office, inside}, {inside, laptop}} {
			from, to := way[0], way[1]
			tcp, udp := to.serveTCP(t, at(to), echoTCP), to.serveUDP(t, at(to))
			must(t, "TCP "+families[six], from.echoesTCP(tcp.String()))
			must(t, "UDP "+families[six], from.echoesUDP(udp.String(), 1, 1200, 1400, 20000))
		}
	}
	digest := inside.serveTCP(t, inside.inner(false).String()+":0", func(c *net.TCPConn) {
		h := sha256.New()
		_, _ = io.Copy(h, c)
		_, _ = c.Write(h.Sum(nil))
	})
	c, err := laptop.dial("tcp", digest.String())
	must(t, "dial", err)
	const size = 256 << 20
	start, sum := time.Now(), sha256.New()
	_, err = io.CopyN(io.MultiWriter(c, sum), noise(1), size)
	must(t, "send", err)
	must(t, "end", c.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(c)
	must(t, "digest", err)
	logRate(t, "through the hub", size, start)
	if string(got) != string(sum.Sum(nil)) {
		t.Errorf("SHA-256 %x arrived, %x was sent", got, sum.Sum(nil))
	}

	silent := laptop.serveTCP(t, laptop.inner(false).String()+":0", echoTCP)
	office.do(func() { _, err = net.DialTimeout("tcp", silent.String(), 2*time.Second) })
	if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("from one outside host to another: %v, want silence", err)
	}
	eventually(t, "count of what was not passed on", func() error {
		text, err := middle.get("/metrics")
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, `tenantwire_datapath_dropped_total{reason="NotForwarded"} `) && !strings.HasSuffix(line, " 0\n") {
				return nil
			}
		}
		return fmt.Errorf("none: %w", err)
	})
}
