package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// families names the IP versions of a subtest.
var families = map[bool]string{false: "v4", true: "v6"}

// TestInteropMatrix carries TCP and UDP over and inside IPv4 and IPv6, opened from both ends and through both proxies.
func TestInteropMatrix(t *testing.T) {
	for _, outside := range []bool{false, true} {
		t.Run("outside-"+families[outside], func(t *testing.T) {
			p := newPair(t, outside)
			type target struct{ tcp, udp netip.AddrPort }
			targets, forwards := map[bool]target{}, map[bool][2]string{}
			for i, inside := range []bool{false, true} {
				at := netip.AddrPortFrom(p.far.inner(inside), 0).String()
				s := target{p.far.serveTCP(t, at, echoTCP), p.far.serveUDP(t, at)}
				targets[inside] = s
				forwards[inside] = [2]string{p.side.forward("TCP", 7001+i, s.tcp), p.side.forward("UDP", 7001+i, s.udp)}
			}
			tcp, udp := p.side.serveTCP(t, "127.0.0.1:0", echoTCP), p.side.serveUDP(t, "127.0.0.1:0")
			p.side.conf.Expose = []confExpose{{80, "TCP", tcp.String()}, {53, "UDP", udp.String()}}
			p.side.run(t)
			for _, inside := range []bool{false, true} {
				name, own := "inside-"+families[inside], p.side.inner(inside)
				check := func(what string, f func() error) {
					t.Run(name+"/"+what, func(t *testing.T) { must(t, what, f()) })
				}
				check("tcp-out", func() error { return p.side.echoesTCP(forwards[inside][0]) })
				check("udp-out", func() error { return p.side.echoesUDP(forwards[inside][1], 1, 100, 1200) })
				check("tcp-in", func() error { return p.far.echoesTCP(netip.AddrPortFrom(own, 80).String()) })
				check("udp-in", func() error { return p.far.echoesUDP(netip.AddrPortFrom(own, 53).String(), 1, 100, 1200) })
				check("socks5", func() error { return viaSOCKS(p.side.host, targets[inside].tcp) })
				check("connect", func() error { return viaConnect(p.side.host, targets[inside].tcp) })
			}
		})
	}
}

func viaSOCKS(h *host, to netip.AddrPort) error {
	c, code, err := h.socks(to)
	if err != nil || code != 0 {
		return fmt.Errorf("reply %d, %w", code, err)
	}
	return speak(c, []byte("over SOCKS5"))
}

func viaConnect(h *host, to netip.AddrPort) error {
	c, code, err := h.httpConnect(to)
	if err != nil || code != 200 {
		return fmt.Errorf("status %d, %w", code, err)
	}
	return speak(c, []byte("over CONNECT"))
}

// TestInteropUnprivileged shows that all of this needs no privilege, and says what the kernel gave for buffers.
func TestInteropUnprivileged(t *testing.T) {
	p := newPair(t, false)
	echo := p.far.serveTCP(t, p.far.inner(false).String()+":0", echoTCP)
	at := p.side.forward("TCP", 7001, echo)
	p.side.run(t)
	must(t, "echo", p.side.echoesTCP(at))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.side.proc.cmd.Process.Pid))
	must(t, "read status", err)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "CapInh", "CapPrm", "CapEff", "CapAmb":
			if strings.Trim(value, "0") != "" {
				t.Errorf("%s: %s, want none", name, value)
			}
		case "Uid", "Gid":
			if value != strings.TrimSuffix(strings.Repeat("65532\t", 4), "\t") {
				t.Errorf("%s: %s", name, value)
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/net/core/rmem_max"); err == nil {
		t.Logf("net.core.rmem_max is %s bytes", strings.TrimSpace(string(b)))
	}
}

// TestInteropHalfClose ends one direction and goes on in the other, whichever end connected and whichever end stops first.
func TestInteropHalfClose(t *testing.T) {
	p := newPair(t, false)
	serverFirst := func(c *net.TCPConn) { // says its part and ends it, then listens to the last byte
		_, _ = c.Write([]byte("hello"))
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		if string(b) != "late words" {
			_ = c.SetLinger(0) // a reset tells the client
		}
	}
	far := p.far.inner(false).String() + ":0"
	out := p.side.forward("TCP", 7001, p.far.serveTCP(t, far, echoTCP))
	outFirst := p.side.forward("TCP", 7002, p.far.serveTCP(t, far, serverFirst))
	in, inFirst := p.side.serveTCP(t, "127.0.0.1:0", echoTCP), p.side.serveTCP(t, "127.0.0.1:0", serverFirst)
	p.side.conf.Expose = []confExpose{{81, "TCP", in.String()}, {82, "TCP", inFirst.String()}}
	p.side.run(t)
	own := p.side.inner(false).String()
	must(t, "client first, out", p.side.echoesTCP(out))
	must(t, "client first, in", p.far.echoesTCP(own+":81"))
	must(t, "server first, out", afterServerEnds(p.side.host, outFirst))
	must(t, "server first, in", afterServerEnds(p.far.host, own+":82"))
}

func afterServerEnds(h *host, to string) error {
	c, err := h.dial("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		return fmt.Errorf("read %q: %w", b, err)
	}
	if _, err := c.Write([]byte("late words")); err != nil {
		return err
	}
	return c.(*net.TCPConn).CloseWrite()
}

// TestInteropRefused: what nobody serves or nobody may have is refused at once, not left to time out.
func TestInteropRefused(t *testing.T) {
	p := newPair(t, false)
	closed := netip.AddrPortFrom(p.far.inner(false), 9)
	at := p.side.forward("TCP", 7001, closed)
	atUDP := p.side.forward("UDP", 7001, closed)
	p.side.conf.Expose = []confExpose{{80, "TCP", "127.0.0.1:9"}, {81, "UDP", "127.0.0.1:9"}}
	p.side.serveTCP(t, "127.0.0.1:22", echoTCP) // served, but not exposed
	p.side.run(t)
	own := p.side.inner(false).String()
	for name, to := range map[string]string{"exposed but not served": own + ":80", "served but not exposed": own + ":22"} {
		if _, err := p.far.dial("tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want connection refused", name, err)
		}
	}
	for name, to := range map[string]string{"not exposed": own + ":82", "exposed for TCP alone": own + ":80"} {
		if err := p.far.echoesUDP(to, 10); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP %s: %v, want connection refused", name, err)
		}
	}
	eventually(t, "UDP exposed but not served: a second flow is refused", func() error {
		if err := p.far.echoesUDP(own+":81", 10); !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w, want connection refused", err)
		}
		return nil
	})
	if err := p.side.echoesTCP(at); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("forward: %v, want a reset", err)
	}
	if err := p.side.echoesUDP(atUDP, 10); err == nil {
		t.Error("forward to a closed UDP port: something answered")
	}
	if _, code, err := p.side.socks(closed); err != nil || code != 5 {
		t.Errorf("SOCKS5 answers %d, %v, want 5 (connection refused)", code, err)
	}
	if _, code, err := p.side.httpConnect(closed); err != nil || code != 502 {
		t.Errorf("CONNECT answers %d, %v, want 502", code, err)
	}
	if _, code, err := p.side.socks(netip.MustParseAddrPort("10.8.0.1:80")); err != nil || code != 2 {
		t.Errorf("SOCKS5 to an address of no peer answers %d, %v, want 2 (not allowed)", code, err)
	}
}

// TestInteropSpoofed: an inner source that the peer does not own gets nothing, though the port is exposed.
func TestInteropSpoofed(t *testing.T) {
	p := newPair(t, false)
	reached := make(chan string, 16)
	at := p.side.serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		reached <- c.RemoteAddr().String()
		echoTCP(c)
	})
	p.side.conf.Expose = []confExpose{{80, "TCP", at.String()}}
	p.side.run(t)
	to := netip.AddrPortFrom(p.side.inner(false), 80).String()
	must(t, "own source", p.far.echoesTCP(to))
	<-reached
	p.far.addAddress(t, p.far.iface, "10.7.0.99/32")
	d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP("10.7.0.99")}}
	var err error
	p.far.do(func() { _, err = d.Dial("tcp", to) })
	if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("spoofed source: %v, want silence", err)
	}
	select {
	case from := <-reached:
		t.Error("the application was reached from", from)
	default:
	}
	must(t, "own source again", p.far.echoesTCP(to))
}

// TestInteropPing: the sidecar's inner addresses answer a ping, as those of a real interface do.
func TestInteropPing(t *testing.T) {
	p := newPair(t, false)
	p.side.run(t)
	for six, network := range map[bool]string{false: "ip4:icmp", true: "ip6:ipv6-icmp"} {
		var c net.Conn
		var err error
		p.far.do(func() { c, err = net.Dial(network, p.side.inner(six).String()) })
		must(t, "raw socket", err)
		defer c.Close()
		request, reply := byte(8), byte(0)
		if six {
			request, reply = 128, 129
		}
		payload := []byte{0x54, 0x57, 0, 1, 'p', 'i', 'n', 'g'}
		eventually(t, "ping "+families[six], func() error { return ping(c, request, reply, payload) })
	}
}

func ping(c net.Conn, request, reply byte, payload []byte) error {
	m := append([]byte{request, 0, 0, 0}, payload...)
	if request == 8 { // over IPv6 the kernel computes it
		sum := uint32(0)
		for i := 0; i < len(m); i += 2 {
			sum += uint32(m[i])<<8 | uint32(m[i+1])
		}
		sum = ^(sum>>16 + sum&0xffff)
		m[2], m[3] = byte(sum>>8), byte(sum)
	}
	if _, err := c.Write(m); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 2048)
	for {
		n, _, err := c.(*net.IPConn).ReadFrom(b) // unlike Read it takes the IPv4 header away
		if err != nil {
			return err
		}
		if n >= 4 && b[0] == reply && bytes.Equal(b[4:n], payload) {
			return nil
		}
	}
}

// TestInteropMTU: datagrams far larger than the tunnel's MTU arrive whole, in fragments inside.
func TestInteropMTU(t *testing.T) {
	p := newPair(t, false)
	sizes := []int{1372, 1373, 1392, 1393, 1500, 4000, 9000, 30000, 60000}
	udp := p.side.serveUDP(t, "127.0.0.1:0")
	p.side.conf.Expose = []confExpose{{53, "UDP", udp.String()}}
	ats := map[bool]string{}
	for i, six := range []bool{false, true} {
		ats[six] = p.side.forward("UDP", 7001+i, p.far.serveUDP(t, netip.AddrPortFrom(p.far.inner(six), 0).String()))
	}
	p.side.run(t)
	for _, six := range []bool{false, true} {
		t.Run(families[six]+"/out", func(t *testing.T) { must(t, "echo", p.side.echoesUDP(ats[six], sizes...)) })
		t.Run(families[six]+"/in", func(t *testing.T) {
			must(t, "echo", p.far.echoesUDP(netip.AddrPortFrom(p.side.inner(six), 53).String(), sizes...))
		})
	}
}
