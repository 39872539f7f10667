package agent

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// joined starts a member and has it take the first configuration.
func joined(t *testing.T, more ...func(*member)) (*lab, *stream) {
	t.Helper()
	l := newLab(t)
	l.start(t, more...)
	s := l.c.next(t, "")
	s.send(t, snapshot(l.config()))
	l.c.reported(t, true)
	return l, s
}

func TestMemberJoins(t *testing.T) {
	l, s := joined(t)
	regs := l.c.registered()
	private, err := (&store{l.opts.StateDir}).key()
	must(t, err)
	want := wire.Registration{PublicKey: private.Public(), Endpoint: netip.AddrPortFrom(l.opts.PodIP, l.opts.ListenPort),
		Datapath: datapath.Netstack, DatapathReason: "Netstack was asked for", Version: "v1.2.3"}
	if len(regs) != 1 || regs[0] != want {
		t.Errorf("registered %+v, want once %+v", regs, want)
	}
	l.c.mu.Lock()
	for i, p := range l.c.protocols {
		if want := fmt.Sprintf("HTTP/2.0 TLS %x", tls.VersionTLS13); p != want || l.c.tokens[i] != "Bearer token-1" {
			t.Errorf("request %d came over %s with %q", i, p, l.c.tokens[i])
		}
	}
	l.c.mu.Unlock()
	l.carries(t)
	if code, text, err := l.health("/readyz"); code != http.StatusOK || err != nil {
		t.Errorf("readyz: %d %s %v", code, text, err)
	}
	next := l.config()
	next.Inbound = nil
	s.send(t, delta(l.config(), next))
	eventually(t, "the port is closed", func() error {
		if l.echoes() == nil {
			return errors.New("still open")
		}
		return nil
	})
	s.send(t, delta(next, l.config()), wire.Event{Type: wire.Heartbeat, To: l.config().Revision()})
	l.carries(t)
	l.stop(t)
}

// TestMemberKeepsLastGood breaks the stream in every way. The data plane carries on, and the next watch asks from where it was.
func TestMemberKeepsLastGood(t *testing.T) {
	l, s := joined(t)
	good := l.config()
	other := l.config()
	other.Inbound = nil
	bad := l.config()
	bad.Interface.Addresses = nil
	text := func(e wire.Event) string { b, _ := json.Marshal(e); return string(b) + "\n" }
	for _, c := range []struct{ name, text string }{
		{"garbled", "{\"type\":\"Delta\",\x00\x01\x02\n"},
		{"HTML", "<html>502</html>\n"},
		{"cut", text(delta(good, other))[:40]},
		{"out of order", text(delta(other, good))},
		{"bad snapshot", text(snapshot(bad))},
		{"delta of nothing", `{"type":"Delta","from":"` + good.Revision() + `","to":"x"}` + "\n"},
		{"heartbeat of another revision", text(wire.Event{Type: wire.Heartbeat, To: other.Revision()})},
		{"empty", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.raw(t, c.text)
			close(s.end)
			s = l.c.next(t, good.Revision())
			if err := l.echoes(); err != nil {
				t.Errorf("the data plane does not carry: %v", err)
			}
			s.send(t, snapshot(good), wire.Event{Type: wire.Heartbeat, To: good.Revision()})
		})
	}
	s.raw(t, text(delta(good, other)))
	s.raw(t, text(delta(good, other))) // a second time: from a revision that is not current any more
	s = l.c.next(t, other.Revision())
	s.send(t, delta(other, good))
	l.carries(t)
	for _, r := range l.c.registered() { // once a stream
		if r != l.c.registered()[0] {
			t.Errorf("registered as %+v, then as %+v", l.c.registered()[0], r)
		}
	}
}

// TestMemberRefusals: every refusal is tried again; every stream begins with a registration, and says anew whether we are ready.
func TestMemberRefusals(t *testing.T) {
	l := newLab(t)
	l.c.prepare(wire.RegisterPath, http.StatusServiceUnavailable, http.StatusUnauthorized, http.StatusNotFound)
	l.c.prepare(wire.ReportPath, http.StatusServiceUnavailable)
	l.start(t)
	s := l.c.next(t, "")
	s.send(t, snapshot(l.config()))
	l.c.reported(t, true)
	for i, code := range []int{http.StatusUnauthorized, http.StatusNotFound, http.StatusServiceUnavailable} {
		l.c.prepare(wire.WatchPath, code)
		close(s.end)
		s = l.c.next(t, l.config().Revision())
		if n, want := len(l.c.registered()), 3+2*i; n != want { // the first, then for each refused stream and the one after it
			t.Errorf("after %d: registered %d times, want %d", code, n, want)
		}
		l.c.reported(t, true)
		must(t, l.echoes())
	}
}

// TestMemberRestart: with nobody to ask, a restarted member is up from what it kept, under the same key.
func TestMemberRestart(t *testing.T) {
	l, _ := joined(t)
	eventually(t, "configuration kept", func() error {
		_, err := os.Stat(filepath.Join(l.opts.StateDir, "config.json"))
		return err
	})
	l.stop(t)
	first := l.c.registered()[0].PublicKey
	l.c.prepare(wire.RegisterPath, slices.Repeat([]int{http.StatusServiceUnavailable}, 3)...)
	l.start(t)
	l.carries(t) // before the coordinator lets anybody in
	s := l.c.next(t, l.config().Revision())
	s.send(t, wire.Event{Type: wire.Heartbeat, To: l.config().Revision()})
	l.c.reported(t, true)
	if regs := l.c.registered(); regs[len(regs)-1].PublicKey != first {
		t.Error("a restart changed the key")
	}
	entries, err := os.ReadDir(l.opts.StateDir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", e.Name(), info.Mode())
		}
	}
	if len(entries) != 2 {
		t.Errorf("the state directory holds %v", entries)
	}
}

// TestMemberSpoiltCache: a kept configuration that is not good is as none.
func TestMemberSpoiltCache(t *testing.T) {
	l := newLab(t)
	must(t, os.WriteFile(filepath.Join(l.opts.StateDir, "config.json"), []byte(`{"revision":"x","config":{"interface":{"addresses":["127.0.0.1/32"]}}}`), 0o600))
	l.start(t)
	if code, _, _ := l.health("/readyz"); code == http.StatusOK {
		t.Error("ready without a configuration")
	}
	s := l.c.next(t, "")
	s.send(t, snapshot(l.config()))
	l.carries(t)
}

func TestMemberGone(t *testing.T) {
	l, s := joined(t)
	l.carries(t)
	_, text, err := l.health("/metrics")
	must(t, err)
	for _, reason := range []string{"Malformed", "Replayed", "ForeignSource", "ForeignDestination"} {
		if want := `tenantwire_datapath_dropped_total{reason="` + reason + `"} 0`; !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	l.c.prepare(wire.RegisterPath, http.StatusNotFound)
	s.send(t, wire.Event{Type: wire.Gone, Reason: "the tunnel was deleted"})
	if r := l.c.reported(t, false); r.Reason == "" {
		t.Error("not ready, and no reason")
	}
	if err := l.echoes(); err == nil {
		t.Error("a deleted tunnel carries bytes")
	}
	if _, text, err := l.health("/metrics"); err != nil || strings.Contains(text, "wireguard_sent_bytes_total{") {
		t.Error("a deleted tunnel has peers", err)
	}
	if _, err := os.Stat(filepath.Join(l.opts.StateDir, "config.json")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a restart would bring the deleted tunnel back:", err)
	}
	s = l.c.next(t, "")
	if n := len(l.c.registered()); n != 2 {
		t.Errorf("registered %d times, want 2", n)
	}
	s.send(t, snapshot(l.config()))
	l.c.reported(t, true)
	l.carries(t)
}

// TestMemberSilence: a stream without heartbeats is opened anew.
func TestMemberSilence(t *testing.T) {
	l, first := joined(t, func(m *member) { m.silence = 200 * time.Millisecond })
	second := l.c.next(t, l.config().Revision())
	<-first.over
	for range 5 { // what speaks in time is kept
		second.send(t, wire.Event{Type: wire.Heartbeat, To: l.config().Revision()})
	}
	l.carries(t)
	if !strings.Contains(l.log.String(), "nothing heard for 200ms") {
		t.Error("the log does not say why")
	}
}

// TestMemberDrain: at the end a connection may finish, one that does not is cut, and both ends are in time.
func TestMemberDrain(t *testing.T) {
	for name, finishes := range map[string]bool{"finishes": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.opts.Drain = time.Second
			if finishes {
				l.opts.Drain = time.Hour // it must not be waited for
			}
			l.start(t)
			l.c.next(t, "").send(t, snapshot(l.config()))
			l.carries(t)
			c, err := l.far.DialTCP(t.Context(), netip.AddrPortFrom(memberAddress.Addr(), l.echo))
			must(t, err)
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			l.cancel()
			eventually(t, "not ready", func() error {
				if code, _, err := l.health("/readyz"); err != nil || code == http.StatusServiceUnavailable {
					return nil
				}
				return errors.New("still ready")
			})
			if finishes {
				_, err = io.WriteString(c, "last words")
				must(t, errors.Join(err, c.CloseWrite()))
				b, err := io.ReadAll(c)
				if err != nil || string(b) != "last words" {
					t.Errorf("read %q, %v", b, err)
				}
			}
			l.stop(t)
			if !finishes {
				if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the connection was not cut: %v", err)
				}
			}
			if l, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", l.opts.ListenPort)); err != nil {
				t.Error("the outer port is still taken:", err)
			} else {
				_ = l.Close()
			}
		})
	}
}

// TestMemberNames: a carried name listens on its address, under the Service's port, and the proxies know it.
func TestMemberNames(t *testing.T) {
	l := newLab(t)
	at, port := netip.MustParseAddr("127.77.0.9"), freePort(t, "tcp")
	l.opts.Names = map[string]netip.Addr{"db": at}
	l.start(t)
	c := l.config()
	c.Services = []wire.Service{{ServiceID: wire.ServiceID{Name: "db", Port: port, Protocol: wire.TCP}, Targets: []netip.AddrPort{netip.AddrPortFrom(farAddress.Addr(), 5432)}},
		{ServiceID: wire.ServiceID{Name: "other", Port: port, Protocol: wire.TCP}, Targets: []netip.AddrPort{netip.AddrPortFrom(farAddress.Addr(), 1)}}}
	l.far.HandleTCP(func(q datapath.TCPRequest) {
		s, err := q.Accept()
		if err == nil {
			_, _ = fmt.Fprintf(s, "port %d", q.Local().Port())
			_ = s.Close()
		}
	})
	l.c.next(t, "").send(t, snapshot(c))
	eventually(t, "the name answers", func() error {
		conn, err := net.Dial("tcp", netip.AddrPortFrom(at, port).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(conn)
		if err == nil && string(b) != "port 5432" {
			err = fmt.Errorf("read %q", b)
		}
		return err
	})
	m := &member{Options: l.opts, config: c}
	for name, want := range map[string]bool{"db": true, "db.team": true, "db.team.svc": true, "db.team.svc.cluster.local": true, "other": true,
		"db.elsewhere": false, "db.team.evil": false, "dbx": false, "d": false, "": false} {
		if _, ok := m.resolve(name, port); ok != want {
			t.Errorf("resolve %q: %v", name, ok)
		}
	}
}

func TestOptionsValidate(t *testing.T) {
	l := newLab(t)
	must(t, l.opts.Validate())
	for want, spoil := range map[string]func(*Options){
		"--coordinator":            func(o *Options) { u := *o.Coordinator; u.Scheme = "http"; o.Coordinator = &u },
		"--token-file":             func(o *Options) { o.TokenFile = "" },
		"POD_IP":                   func(o *Options) { o.PodIP = netip.Addr{} },
		"--listen-port":            func(o *Options) { o.ListenPort = 0 },
		"not a loopback":           func(o *Options) { o.Names = map[string]netip.Addr{"db": netip.MustParseAddr("10.0.0.1")} },
		`"Warp" is not Auto`:       func(o *Options) { o.Datapath = "Warp" },
		"open state directory":     func(o *Options) { o.StateDir += "-none" },
		"listen for health probes": func(o *Options) { o.HealthAddr = "192.0.2.1:1" },
	} {
		o := l.opts
		spoil(&o)
		if err := RunMember(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

// TestPlaneForgetsNoPeer: when one half of a change fails, the next change still removes what the first brought.
func TestPlaneForgetsNoPeer(t *testing.T) {
	noLeaks(t)
	p := newPlane(key.NewPrivate(), 0, choice{kind: datapath.Netstack}, newLabLog())
	t.Cleanup(func() { _ = p.close() })
	peer := datapath.Peer{PublicKey: key.NewPrivate().Public(), AllowedIPs: []netip.Prefix{farAddress}}
	good := desired{iface: datapath.Interface{Addresses: []netip.Prefix{memberAddress}, MTU: 1400}}
	must(t, p.apply(good))
	bad := desired{iface: datapath.Interface{Addresses: good.iface.Addresses, MTU: 1}, peers: map[key.Public]datapath.Peer{peer.PublicKey: peer}}
	if p.apply(bad) == nil {
		t.Fatal("an MTU of 1 was applied")
	}
	if p.healthy() {
		t.Error("healthy after a failure")
	}
	must(t, p.apply(good))
	peers, _, ok := p.stats()
	if !ok || len(peers) != 0 {
		t.Errorf("left on the device: %v", peers)
	}
}
