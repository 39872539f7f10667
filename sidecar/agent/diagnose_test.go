package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// asks has the member make a diagnosis.
func (l *lab) asks(query string) (*wire.Diagnosis, error) { return asksAt(l.opts.HealthAddr, query) }

func asksAt(health, query string) (*wire.Diagnosis, error) {
	h := http.Client{Timeout: wire.DiagnosisTime + 10*time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+health+wire.DiagnosePath+"?"+query, http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set(wire.DiagnoseHeader, "1")
	res, err := h.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d: %w", res.StatusCode, errRefused)
	}
	var d wire.Diagnosis
	if err := json.NewDecoder(res.Body).Decode(&d); err != nil {
		return nil, err
	}
	return &d, d.Validate()
}

// diagnosed wants one with a single target.
func (l *lab) diagnosed(t *testing.T, to string) (*wire.Diagnosis, wire.DiagnosedTarget) {
	t.Helper()
	d, err := l.asks("to=" + url.QueryEscape(to))
	must(t, err)
	if d.To == nil || len(d.To.Targets) != 1 {
		t.Fatalf("%s: %+v", to, d.To)
	}
	return d, d.To.Targets[0]
}

// carrying is a lab whose member carries web, on the far device, and declares a port of its own.
func carrying(t *testing.T) (*lab, wire.Config) {
	t.Helper()
	l := newLab(t)
	l.opts.Names = map[string]netip.Addr{"web": netip.MustParseAddr("127.77.0.1")}
	c := l.config()
	c.Services = []wire.Service{
		{ServiceID: wire.ServiceID{Name: "other", Port: 80, Protocol: wire.TCP}, Targets: []netip.AddrPort{netip.AddrPortFrom(farAddress.Addr(), 80)}},
		{ServiceID: wire.ServiceID{Name: "web", Port: freePort(t, "tcp"), Protocol: wire.TCP}, Targets: []netip.AddrPort{netip.AddrPortFrom(farAddress.Addr(), 80)}},
	}
	c.Sort()
	return l, c
}

func TestDiagnosis(t *testing.T) {
	l, c := carrying(t)
	l.start(t)
	l.c.next(t, "").send(t, snapshot(c))
	l.carries(t)
	l.far.HandleTCP(func(r datapath.TCPRequest) {
		if r.Local().Port() != 80 {
			r.Refuse()
			return
		}
		if s, err := r.Accept(); err == nil {
			_ = s.Close()
		}
	})
	d, at := l.diagnosed(t, "web")
	if !d.Up || !d.Applied || d.MTU != 1400 || d.To.Kind != wire.ToService || !d.To.Carried || d.To.Why != "" || len(d.Inbound) != 1 || d.Inbound[0].Port.Port != l.echo || d.Inbound[0].Admits != nil {
		t.Errorf("%+v %+v", d, d.To)
	}
	if at.PublicKey != l.farKey.Public() || at.Port != 80 || at.Outside || at.Endpoint.Port() != l.far.ListenPort() || at.After.TxBytes <= at.Before.TxBytes || at.After.RxBytes <= at.Before.RxBytes {
		t.Errorf("%+v", at)
	}
	if len(at.Echoes) < 5 || at.Echoes[len(at.Echoes)-1].Bytes != 1400 {
		t.Errorf("echoes %+v", at.Echoes)
	}
	for _, e := range at.Echoes {
		if !e.Answered || e.Why != "" || e.Micros == 0 {
			t.Errorf("%+v", e)
		}
	}
	if at.Dial == nil || !at.Dial.OK {
		t.Errorf("dial %+v", at.Dial)
	}
	l.far.HandleTCP(nil)
	if _, at = l.diagnosed(t, "web.team.svc"); at.Dial == nil || at.Dial.OK || at.Dial.Reason != "Refused" {
		t.Errorf("nobody listens: %+v", at.Dial)
	}
	// What the pod does not carry is not dialled, though it is known and its member is asked for an echo.
	if d, at = l.diagnosed(t, "other"); d.To.Carried || at.Dial != nil || len(at.Echoes) == 0 {
		t.Errorf("not carried: %+v %+v", d.To, at)
	}
	if _, at = l.diagnosed(t, "10.7.0.1:80"); at.Dial != nil || len(at.Echoes) == 0 {
		t.Errorf("an address: %+v", at)
	}
	for _, to := range []string{"nosuch", "web:9", "10.9.9.9"} {
		d, err := l.asks("to=" + to)
		must(t, err)
		if d.To.Kind == wire.ToAddress {
			if at := d.To.Targets[0]; !at.PublicKey.IsZero() || len(at.Echoes) > 0 {
				t.Errorf("%s: %+v", to, at)
			}
		} else if len(d.To.Targets) > 0 || d.To.Why == "" {
			t.Errorf("%s: %+v", to, d.To)
		}
	}
	l.stop(t)
}

// Default deny as the member has it: of outside peers those are let in to whom it is granted.
func TestDiagnosisOfAdmission(t *testing.T) {
	l, c := carrying(t)
	c.Peers[0].Outside = true
	l.start(t)
	s := l.c.next(t, "")
	s.send(t, snapshot(c))
	admits := func(from string) error {
		d, err := l.asks("from=" + from)
		switch {
		case err != nil:
			return err
		case len(d.Inbound) != 1 || d.Inbound[0].Admits == nil || d.To != nil:
			return fmt.Errorf("%+v", d)
		case !*d.Inbound[0].Admits:
			return errRefused
		}
		return nil
	}
	eventually(t, "is refused", func() error {
		if err := admits("10.7.0.1"); !errors.Is(err, errRefused) {
			return fmt.Errorf("%w", errors.Join(err, errors.New("not refused")))
		}
		return nil
	})
	c.Granted = c.Inbound
	s.send(t, snapshot(c))
	eventually(t, "is let in", func() error { return admits("10.7.0.1") })
	if err := admits("10.7.0.9"); !errors.Is(err, errRefused) {
		t.Errorf("nobody's address: %v", err)
	}
	l.stop(t)
}

func TestDiagnosisIsGuarded(t *testing.T) {
	l := newLab(t)
	port := freePort(t, "tcp")
	l.opts.HealthAddr = fmt.Sprintf(":%d", port)
	l.start(t)
	eventually(t, "listens", func() error {
		if _, err := asksAt(fmt.Sprintf("127.0.0.2:%d", port), ""); !errors.Is(err, errRefused) {
			return fmt.Errorf("another address: %w", err)
		}
		return nil
	})
	own := fmt.Sprintf("127.0.0.1:%d", port)
	plain := httptest.NewRecorder() // as an application is made to fetch an address
	(&member{}).serveDiagnosis(plain, httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey,
		net.Addr(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})), http.MethodGet, wire.DiagnosePath, nil))
	if plain.Code != http.StatusForbidden || !strings.Contains(plain.Body.String(), wire.DiagnoseHeader) {
		t.Errorf("without the header: %d %s", plain.Code, plain.Body)
	}
	if d, err := asksAt(own, ""); err != nil || d.Up {
		t.Errorf("%+v %v", d, err)
	}
	for _, q := range []string{"to=web:0", "to=web:http", "to=a%20b", "from=x", "from=fe80::1%25eth0", "to=" + strings.Repeat("x", 300)} {
		if _, err := asksAt(own, q); !errors.Is(err, errRefused) {
			t.Errorf("%s: %v", q, err)
		}
	}
	if d, err := asksAt(own, "to=web"); err != nil || d.To == nil || d.To.Why == "" {
		t.Errorf("without a configuration: %+v %v", d, err)
	}
	l.stop(t)
}

// newWall stands where the member looks for the far device, and lets pass what pass says.
func newWall(t *testing.T, far netip.AddrPort, pass func(fromMember bool, n int) bool) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	var member atomic.Pointer[net.Addr]
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			fromMember := from.String() != far.String()
			if fromMember {
				member.Store(&from)
			}
			if !pass(fromMember, n) {
				continue
			}
			if fromMember {
				_, _ = c.WriteTo(b[:n], net.UDPAddrFromAddrPort(far))
			} else if m := member.Load(); m != nil {
				_, _ = c.WriteTo(b[:n], *m)
			}
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// TestDiagnosisOfThePath plants faults between two real devices.
func TestDiagnosisOfThePath(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pass     func(fromMember bool, n int) bool
		farKnows bool
		check    func(t *testing.T, at wire.DiagnosedTarget)
	}{
		"all gets through": {func(bool, int) bool { return true }, true, func(t *testing.T, at wire.DiagnosedTarget) {
			if largest(at) != 1400 || at.After.LastHandshake.IsZero() || at.PathMTU != 1400 || at.MTUState == "" {
				t.Errorf("%+v", at)
			}
		}},
		"nothing gets through": {func(bool, int) bool { return false }, true, func(t *testing.T, at wire.DiagnosedTarget) {
			if largest(at) != 0 || !at.After.LastHandshake.IsZero() || at.After.RxBytes > at.Before.RxBytes || at.After.TxBytes == 0 {
				t.Errorf("%+v", at)
			}
		}},
		"answers are lost": {func(fromMember bool, _ int) bool { return fromMember }, true, func(t *testing.T, at wire.DiagnosedTarget) {
			if largest(at) != 0 || at.After.RxBytes > 0 || at.After.TxBytes == 0 {
				t.Errorf("%+v", at)
			}
		}},
		"large packets are lost": {func(_ bool, n int) bool { return n <= 1392+32 }, true, func(t *testing.T, at wire.DiagnosedTarget) {
			if largest(at) != 1380 || at.After.LastHandshake.IsZero() {
				t.Errorf("%d: %+v", largest(at), at)
			}
		}},
		"the far end has another key": {func(bool, int) bool { return true }, false, func(t *testing.T, at wire.DiagnosedTarget) {
			if largest(at) != 0 || !at.After.LastHandshake.IsZero() {
				t.Errorf("%+v", at)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, c := carrying(t)
			c.Peers[0].KeepaliveSeconds = 0
			c.Peers[0].Endpoint = newWall(t, netip.AddrPortFrom(l.opts.PodIP, l.far.ListenPort()), test.pass)
			if !test.farKnows {
				c.Peers[0].PublicKey = key.NewPrivate().Public()
			}
			l.start(t)
			l.c.next(t, "").send(t, snapshot(c))
			eventually(t, "is up", func() error {
				if d, err := l.asks(""); err != nil || !d.Up {
					return fmt.Errorf("%+v: %w", d, errors.Join(err, errRefused))
				}
				return nil
			})
			_, at := l.diagnosed(t, "web")
			test.check(t, at)
			l.stop(t)
		})
	}
}

// largest is the size of the largest echo that was answered; 0: none.
func largest(at wire.DiagnosedTarget) (n int) {
	for _, e := range at.Echoes {
		if e.Answered {
			n = max(n, e.Bytes)
		}
	}
	return n
}
