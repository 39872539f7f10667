package interop

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// noise is an endless stream that compresses to nothing and repeats for nobody.
func noise(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// TestInteropBulk carries a GiB each way and compares digests.
func TestInteropBulk(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	p := newPair(t, false)
	at := p.far.inner(false).String() + ":0"
	up := p.side.forward("TCP", 7001, p.far.serveTCP(t, at, func(c *net.TCPConn) {
		h := sha256.New()
		_, _ = io.Copy(h, c)
		_, _ = c.Write(h.Sum(nil))
	}))
	down := p.side.forward("TCP", 7002, p.far.serveTCP(t, at, func(c *net.TCPConn) {
		_, _ = io.CopyN(c, noise(2), size)
	}))
	p.side.run(t)
	sum := func(seed byte) []byte {
		h := sha256.New()
		_, _ = io.CopyN(h, noise(seed), size)
		return h.Sum(nil)
	}
	c, err := p.side.dial("tcp", up)
	must(t, "dial", err)
	start := time.Now()
	_, err = io.CopyN(c, noise(1), size)
	must(t, "send", err)
	must(t, "end", c.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(c)
	must(t, "digest", err)
	logRate(t, "up", size, start)
	if want := sum(1); string(got) != string(want) {
		t.Errorf("up: SHA-256 %x arrived, %x was sent", got, want)
	}
	c, err = p.side.dial("tcp", down)
	must(t, "dial", err)
	h := sha256.New()
	start = time.Now()
	n, err := io.Copy(h, c)
	must(t, "receive", err)
	logRate(t, "down", n, start)
	if want := sum(2); n != size || string(h.Sum(nil)) != string(want) {
		t.Errorf("down: %d bytes of SHA-256 %x arrived, %d of %x were sent", n, h.Sum(nil), size, want)
	}
}

func logRate(t *testing.T, way string, n int64, start time.Time) {
	t.Helper()
	t.Logf("%s: %d MiB, about %.2f Gbit/s beside making and hashing them", way, n>>20, float64(n)*8/1e9/time.Since(start).Seconds())
}

// TestInteropCounters compares what wg show and /metrics say of the same tunnel.
func TestInteropCounters(t *testing.T) {
	p := newPair(t, false)
	at := p.side.forward("TCP", 7001, p.far.serveTCP(t, p.far.inner(false).String()+":0", echoTCP))
	p.side.run(t)
	if s := p.far.show(t, p.side.identity); !s.handshake.IsZero() || s.rx != 0 {
		t.Errorf("before any traffic: %+v", s)
	}
	for range 20 {
		must(t, "echo", p.side.echoesTCP(at))
	}
	// The slack is a handshake and keepalives that one end has counted and the other not yet.
	const slack = 1024
	eventually(t, "counters agree", func() error {
		text, err := p.side.get("/metrics")
		if err != nil {
			return err
		}
		far := p.far.show(t, p.side.identity)
		sent, received := metric(t, text, "wireguard_sent_bytes_total"), metric(t, text, "wireguard_received_bytes_total")
		if abs(sent-float64(far.rx)) > slack || abs(received-float64(far.tx)) > slack || sent < 1e6 || received < 1e6 {
			return fmt.Errorf("sidecar sent %.0f and received %.0f, wg received %d and sent %d", sent, received, far.rx, far.tx)
		}
		if at := metric(t, text, "wireguard_latest_handshake_seconds"); far.handshake.IsZero() || abs(at-float64(far.handshake.Unix())) > 5 {
			return fmt.Errorf("handshake at %.1f here, %d there", at, far.handshake.Unix())
		}
		return nil
	})
}

func abs(f float64) float64 { return max(f, -f) }

// metric reads the one series of a name.
func metric(t *testing.T, text, name string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") {
			var v float64
			_, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
			must(t, name, err)
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestInteropPreshared: with another preshared key than ours, or none, a peer gets nothing at all; with the right one everything.
func TestInteropPreshared(t *testing.T) {
	p := newPair(t, false)
	right, wrong := key.NewPreshared(), key.NewPreshared()
	p.side.secret(t, "psk", right.Reveal())
	p.side.conf.Peers[0].PresharedKeyFile = "psk"
	echo := p.side.serveTCP(t, "127.0.0.1:0", echoTCP)
	p.side.conf.Expose = []confExpose{{80, "TCP", echo.String()}}
	p.side.run(t)
	to := netip.AddrPortFrom(p.side.inner(false), 80).String()
	file := p.side.dir + "/far-psk"
	for name, psk := range map[string]key.Preshared{"wrong": wrong, "none": {}} {
		p.far.wg(t, "peer", p.side.private.Public().String(), "remove") // a new session, not the next try of the last
		must(t, "write key", os.WriteFile(file, []byte(psk.Reveal()), 0o600))
		p.far.peer(t, p.side.identity, outer(1, 1, false), "preshared-key", file)
		var err error
		p.far.do(func() { _, err = net.DialTimeout("tcp", to, 3*time.Second) })
		if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%s preshared key: %v, want silence", name, err)
		}
		if s := p.far.show(t, p.side.identity); !s.handshake.IsZero() {
			t.Errorf("%s preshared key: a handshake at %s", name, s.handshake)
		}
	}
	p.far.wg(t, "peer", p.side.private.Public().String(), "remove")
	must(t, "write key", os.WriteFile(file, []byte(right.Reveal()), 0o600))
	p.far.peer(t, p.side.identity, outer(1, 1, false), "preshared-key", file)
	must(t, "right preshared key", p.far.echoesTCP(to))
	if strings.Contains(p.side.proc.log.String(), right.Reveal()) || strings.Contains(p.side.proc.log.String(), right.Hex()) {
		t.Error("the sidecar printed the preshared key")
	}
}

// TestInteropSidecars runs two sidecars against each other, over both outer families.
func TestInteropSidecars(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run("outside-"+families[six], func(t *testing.T) {
			needLab(t)
			a, b := newHost(t), newHost(t)
			connect(t, a, b, 1)
			near, far := newSidecar(t, a, newIdentity(1)), newSidecar(t, b, newIdentity(2))
			near.peer(far.identity, outer(1, 2, six))
			far.peer(near.identity, netip.Addr{}) // learned from the handshake
			echo, udp := far.serveTCP(t, "127.0.0.1:0", echoTCP), far.serveUDP(t, "127.0.0.1:0")
			far.conf.Expose = []confExpose{{80, "TCP", echo.String()}, {53, "UDP", udp.String()}}
			for i, inside := range []bool{false, true} {
				near.forward("TCP", 7001+i, netip.AddrPortFrom(far.inner(inside), 80))
				near.forward("UDP", 7001+i, netip.AddrPortFrom(far.inner(inside), 53))
			}
			far.run(t)
			near.run(t)
			for _, at := range []string{"127.0.0.1:7001", "127.0.0.1:7002"} {
				must(t, "TCP", near.echoesTCP(at))
				must(t, "UDP", near.echoesUDP(at, 1, 1200, 1400, 20000))
			}
			must(t, "SOCKS5", viaSOCKS(near.host, netip.AddrPortFrom(far.inner(true), 80)))
			must(t, "CONNECT", viaConnect(near.host, netip.AddrPortFrom(far.inner(false), 80)))
		})
	}
}
