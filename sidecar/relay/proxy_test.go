package relay

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// proxied is a world with both proxies: carried names "db.corp" (echo), "empty.corp" (no targets), "dead.corp" (refuses).
func proxied(t *testing.T, m mode, change ...func(*Options)) (w *world, p Proxies) {
	t.Helper()
	w = newWorld(t, m, change...)
	w.net.route(inner(1), server(t, echo))
	w.net.route(inner(3), netip.AddrPort{})
	p = Proxies{SOCKS5: freePort(t, TCP), HTTP: freePort(t, TCP)}
	p.Allow = func(at netip.AddrPort) bool { return netip.MustParsePrefix("10.9.0.0/16").Contains(at.Addr()) }
	p.Resolve = func(name string, port uint16) ([]netip.AddrPort, bool) {
		to, ok := map[string][]netip.AddrPort{"db.corp:80": {inner(2), inner(1)}, "empty.corp:80": {}, "dead.corp:80": {inner(2)},
			"hang.corp:80": {inner(3)}}[fmt.Sprintf("%s:%d", name, port)]
		return to, ok
	}
	if err := w.r.SetProxies(p); err != nil {
		t.Fatal(err)
	}
	return w, p
}

// socksAddr encodes host:port as a client does: names as names.
func socksAddr(host string, port uint16) []byte {
	if a, err := netip.ParseAddr(host); err == nil {
		return appendSOCKSAddress(nil, netip.AddrPortFrom(a, port))
	}
	b := append([]byte{socksDomain, byte(len(host))}, host...)
	return append(b, byte(port>>8), byte(port))
}

// socksDial is a small SOCKS5 client; code is the server's reply.
func socksDial(t *testing.T, at netip.AddrPort, command byte, host string, port uint16) (c *net.TCPConn, code byte, bound netip.AddrPort) {
	t.Helper()
	c = dial(t, at)
	must(c.Write([]byte{5, 2, 2, 0}))
	var b [2]byte
	must(io.ReadFull(c, b[:]))
	if b != [2]byte{5, 0} {
		t.Fatalf("method reply %v", b)
	}
	must(c.Write(append([]byte{5, command, 0}, socksAddr(host, port)...)))
	var head [3]byte
	must(io.ReadFull(c, head[:]))
	d, err := readSOCKSAddress(c)
	if err != nil {
		t.Fatal(err)
	}
	return c, head[1], netip.AddrPortFrom(d.addr, d.port)
}

func short(o *Options) { o.Limits.DialTimeout = 100 * time.Millisecond }

func TestSOCKSCodes(t *testing.T) {
	_, p := proxied(t, kernelMode, short)
	for _, c := range []struct {
		host string
		port uint16
		code byte
	}{
		{"db.corp", 80, 0}, {"DB.Corp.", 80, 0}, {"10.9.1.1", 80, 0}, {"db.corp", 81, 4}, {"unknown", 80, 4},
		{"empty.corp", 80, 4}, {"dead.corp", 80, 5}, {"hang.corp", 80, 4}, {"10.9.1.2", 80, 5}, {"192.0.2.1", 80, 2},
		{"127.0.0.1", 80, 2}, {"::1", 80, 2}, {"169.254.169.254", 80, 2}, {"::ffff:127.0.0.1", 80, 2}, {"bad name", 80, 1}, {"db.corp", 0, 1},
	} {
		conn, code, _ := socksDial(t, p.SOCKS5, socksConnect, c.host, c.port)
		if code != c.code {
			t.Errorf("%s:%d: code %d, want %d", c.host, c.port, code, c.code)
		}
		if code == 0 {
			must(conn.Write([]byte("hello")))
			_ = conn.CloseWrite()
		}
		got, err := io.ReadAll(conn)
		if err != nil || (code == 0) != (string(got) == "hello") {
			t.Errorf("%s:%d: %q, %v", c.host, c.port, got, err)
		}
	}
	conn, code, _ := socksDial(t, p.SOCKS5, 2, "db.corp", 80)
	if code != socksBadCommand {
		t.Errorf("BIND: code %d", code)
	}
	_ = conn.Close()
}

func TestSOCKSMalformed(t *testing.T) {
	w, p := proxied(t, kernelMode, func(o *Options) { o.Limits.HeaderTimeout = 100 * time.Millisecond })
	for _, c := range []struct{ send, want string }{
		{"GET / HTTP/1.1\r\n\r\n", ""}, {"\x04\x01", ""}, {"\x05\x01\x02", "\x05\xff"}, {"\x05\x00", "\x05\xff"},
		{"\x05\x01\x00\x05\x01\x00\x09", "\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"}, {"\x05\x01\x00\x05", "\x05\x00"}, {"", ""},
	} {
		conn := dial(t, p.SOCKS5)
		must(conn.Write([]byte(c.send)))
		if got, err := io.ReadAll(conn); err != nil || string(got) != c.want {
			t.Errorf("%q: %q, %v", c.send, got, err)
		}
		_ = conn.Close()
	}
	eventually(t, "all are forgotten", func() bool { return w.r.Stats().Connections == 0 })
	if n := w.row(Proxied, "socks5", TCP).Failures[Malformed]; n != 7 {
		t.Errorf("counted %d", n)
	}
}

func TestSOCKSUDP(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		w.net.route(inner(1), udpServer(t, "1"))
		w.net.route(inner(2), udpServer(t, "2"))
		p := Proxies{SOCKS5: freePort(t, TCP), Allow: func(at netip.AddrPort) bool { return at == inner(2) }}
		p.Resolve = func(name string, port uint16) ([]netip.AddrPort, bool) {
			return []netip.AddrPort{inner(1)}, name == "db"
		}
		if err := w.r.SetProxies(p); err != nil {
			t.Fatal(err)
		}
		control, code, bound := socksDial(t, p.SOCKS5, socksUDPAssociate, "0.0.0.0", 0)
		if code != 0 || !bound.Addr().IsLoopback() {
			t.Fatalf("code %d, bound to %s", code, bound)
		}
		c := dialUDP(t, bound)
		for _, q := range []struct {
			host, data string
			from       netip.AddrPort
		}{{"db", "x", inner(1)}, {"10.9.1.2", "y", inner(2)}, {"db", "", inner(1)}} {
			got := ask(t, c, append(append([]byte{0, 0, 0}, socksAddr(q.host, 80)...), q.data...))
			d, payload, err := parseSOCKSDatagram(got)
			if err != nil || d.addr != q.from.Addr() || string(payload) != string(rune('0'+q.from.Addr().As4()[3]))+q.data {
				t.Errorf("%s: %v %q %v", q.host, d, payload, err)
			}
		}
		for _, bad := range []string{"", "\x00\x00\x01", "\x00\x00\x00\x09", string(append([]byte{0, 0, 0}, socksAddr("192.0.2.1", 80)...))} {
			must(c.Write([]byte(bad)))
		}
		wantSilence(t, c)
		stranger := dialUDP(t, bound)
		must(stranger.Write(append([]byte{0, 0, 0}, socksAddr("db", 80)...)))
		wantSilence(t, stranger)
		_ = control.Close()
		eventually(t, "the association ends", func() bool { return w.row(Proxied, "socks5", UDP).Flows == 0 })
	})
}

func TestConnectStatus(t *testing.T) {
	_, p := proxied(t, kernelMode, short, func(o *Options) { o.Limits.HeaderTimeout = 300 * time.Millisecond })
	for _, c := range []struct {
		request string
		status  int
	}{
		{"CONNECT db.corp:80 HTTP/1.1\r\nHost: db.corp:80\r\n\r\n", 200}, {"CONNECT 10.9.1.1:80 HTTP/1.0\r\n\r\n", 200},
		{"CONNECT db.corp:81 HTTP/1.1\r\nHost: x\r\n\r\n", 403}, {"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: x\r\n\r\n", 403},
		{"CONNECT [::1]:80 HTTP/1.1\r\nHost: x\r\n\r\n", 403}, {"CONNECT empty.corp:80 HTTP/1.1\r\nHost: x\r\n\r\n", 503},
		{"CONNECT dead.corp:80 HTTP/1.1\r\nHost: x\r\n\r\n", 502}, {"CONNECT hang.corp:80 HTTP/1.1\r\nHost: x\r\n\r\n", 504},
		{"GET http://db.corp/ HTTP/1.1\r\nHost: x\r\n\r\n", 405}, {"CONNECT db.corp HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT db.corp:80 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 400}, {"\r\n\r\n", 400}, {"garbage\r\n\r\n", 400},
		{"CONNECT db.corp:99999 HTTP/1.1\r\nHost: x\r\n\r\n", 400}, {"CONNECT db.corp:80 HTTP/1.1\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n", 431},
		{"CONNECT db.corp:80 HTTP/1.1\r\nHo", 408},
	} {
		conn := dial(t, p.HTTP)
		must(io.WriteString(conn, c.request))
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect})
		if err != nil || resp.StatusCode != c.status {
			t.Errorf("%.40q: %v, %v, want %d", c.request, resp, err, c.status)
		}
		_ = conn.Close()
	}
}

// The client may send ahead of the response, and each direction closes on its own.
func TestConnectEarlyDataAndHalfClose(t *testing.T) {
	forEachMode(t, func(t *testing.T, w *world) {
		at, conns := accepted(t)
		w.net.route(inner(1), at)
		p := Proxies{HTTP: freePort(t, TCP), Allow: func(netip.AddrPort) bool { return true }}
		if err := w.r.SetProxies(p); err != nil {
			t.Fatal(err)
		}
		c := dial(t, p.HTTP)
		must(io.WriteString(c, "CONNECT 10.9.1.1:80 HTTP/1.1\r\nHost: x\r\n\r\nearly"))
		_ = c.CloseWrite()
		srv := <-conns
		if got, err := io.ReadAll(srv); err != nil || string(got) != "early" {
			t.Fatalf("server got %q, %v", got, err)
		}
		must(io.WriteString(srv, "answer"))
		_ = srv.Close()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.HasSuffix(got, []byte("\r\n\r\nanswer")) {
			t.Errorf("client got %q, %v", got, err)
		}
	})
}

// Go's own client, through both proxies, to a TLS server.
func TestGoClientThroughProxies(t *testing.T) {
	w, p := proxied(t, kernelMode)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(rw, req.Body)
	}))
	defer srv.Close()
	w.net.route(inner(1), addrPortOf(srv.Listener.Addr()))
	for _, proxy := range []string{"http://" + p.HTTP.String(), "socks5://" + p.SOCKS5.String(), "socks5h://" + p.SOCKS5.String()} {
		client := srv.Client()
		tr := client.Transport.(*http.Transport).Clone()
		tr.Proxy = http.ProxyURL(must(url.Parse(proxy)))
		tr.TLSClientConfig.ServerName = "example.com"
		client.Transport = tr
		body := random(1 << 20)
		resp, err := client.Post("https://db.corp:80/", "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Errorf("%s: %v", proxy, err)
			continue
		}
		if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d bytes, %v", proxy, len(got), err)
		}
		_ = resp.Body.Close()
		tr.CloseIdleConnections()
	}
}

func TestSetProxies(t *testing.T) {
	w, p := proxied(t, kernelMode)
	c, _, _ := socksDial(t, p.SOCKS5, socksConnect, "db.corp", 80)
	door := w.r.proxies.socks5.door
	p.Allow = nil
	p.HTTP = netip.AddrPort{}
	if err := w.r.SetProxies(p); err != nil {
		t.Fatal(err)
	}
	if w.r.proxies.socks5.door != door {
		t.Error("the listener was replaced")
	}
	if got := string(ask(t, c, []byte("alive"))); got != "alive" {
		t.Errorf("%q", got)
	}
	if _, code, _ := socksDial(t, p.SOCKS5, socksConnect, "10.9.1.1", 80); code != socksNotAllowed {
		t.Errorf("new rules do not apply: %d", code)
	}
	err := w.r.SetProxies(Proxies{SOCKS5: netip.MustParseAddrPort("10.0.0.1:1080"), HTTP: p.SOCKS5})
	if err == nil || !strings.Contains(err.Error(), "proxy socks5: listen: 10.0.0.1:1080") {
		t.Errorf("%v", err)
	}
	wantReset(t, c)
	conn := dial(t, p.SOCKS5) // the HTTP proxy took the address over
	must(io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 405 {
		t.Errorf("%v, %v", resp, err)
	}
}

func FuzzSOCKS5(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x07db.corp\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\x0a\x09\x01\x01\x00\x50"))
	f.Add([]byte("\x05\x02\x00\x01\x05\x03\x00\x04aaaaaaaaaaaaaaaa\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.NewReader(b)
		_, d, _, err := socksOpening(struct {
			io.Reader
			io.Writer
		}{in, io.Discard})
		if err == nil {
			checkDestination(t, d, true)
		}
	})
}

func FuzzSOCKSDatagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03\x07db.corp\x00\x50hello"))
	f.Add([]byte("\x00\x00\x00\x01\x0a\x09\x01\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, payload, err := parseSOCKSDatagram(b); err == nil {
			checkDestination(t, d, false)
			if !bytes.HasSuffix(b, payload) || len(payload) > len(b)-3-4 {
				t.Errorf("payload %q of %q", payload, b)
			}
		}
	})
}

func FuzzConnect(f *testing.F) {
	f.Add([]byte("CONNECT db.corp:80 HTTP/1.1\r\nHost: db.corp:80\r\n\r\nearly"))
	f.Add([]byte("CONNECT [fd00::1]:80 HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, early, err := readConnect(bytes.NewReader(b))
		if err == nil {
			checkDestination(t, d, false)
			if !bytes.Contains(b, early) {
				t.Errorf("early data %q was not sent", early)
			}
		}
	})
}

// checkDestination holds whatever a parser accepted to what the rest relies on.
func checkDestination(t *testing.T, d destination, portZero bool) {
	t.Helper()
	if (d.name == "") == !d.addr.IsValid() || d.addr.Is4In6() || d.addr.Zone() != "" {
		t.Errorf("destination %#v", d)
	}
	if d.name != "" && (!validName(d.name) || strings.ToLower(d.name) != d.name) {
		t.Errorf("name %q", d.name)
	}
	if d.port == 0 && !(portZero && d.name == "") {
		t.Errorf("port 0 in %v", d)
	}
}
