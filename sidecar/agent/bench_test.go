package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/bench"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// requests are a device's connections as a listener.
type requests struct {
	all  chan net.Conn
	done chan struct{}
	once sync.Once
}

func listenAll(d datapath.Network) *requests {
	r := &requests{all: make(chan net.Conn, 64), done: make(chan struct{})}
	d.HandleTCP(func(q datapath.TCPRequest) {
		if s, err := q.Accept(); err == nil {
			r.all <- s
		}
	})
	return r
}

func (r *requests) Accept() (net.Conn, error) {
	select {
	case c := <-r.all:
		return c, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}
func (r *requests) Close() error   { r.once.Do(func() { close(r.done) }); return nil }
func (r *requests) Addr() net.Addr { return &net.TCPAddr{} }

// decoded asks for something that is answered with one value.
func (l *lab) decoded(ctx context.Context, t *testing.T, path string, in, out any) *http.Response {
	t.Helper()
	res, err := l.post(ctx, "127.0.0.1", path, jsonType, in)
	must(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("%s: %s %s", path, res.Status, b)
	}
	must(t, json.NewDecoder(res.Body).Decode(out))
	return res
}

// The door is for the address and the token that it was opened for, and for as long as somebody wants it open.
func TestBenchDoor(t *testing.T) {
	l := newLab(t)
	c := l.config()
	l.start(t)
	watch := l.c.next(t, "")
	watch.send(t, snapshot(c))
	l.carries(t)
	ask := wire.BenchDoor{From: []netip.Addr{farAddress.Addr()}, Seconds: 60}
	for path, in := range map[string]any{wire.BenchDoorPath: ask, wire.BenchSelfPath: wire.BenchAsk{}} {
		l.refused(t, "127.0.0.1", path, jsonType, in, http.StatusForbidden, "spec.debug.bench of the pod's TenantTunnel is not Allowed")
	}
	watch.send(t, l.allow(&c, &wire.Debug{Bench: true}))
	l.applied(t, c)
	var self wire.BenchSelf
	l.decoded(t.Context(), t, wire.BenchSelfPath, wire.BenchAsk{}, &self)
	if len(self.Addresses) != 1 || self.Addresses[0] != memberAddress.Addr() || self.Datapath != "Netstack" {
		t.Errorf("%+v", self)
	}
	l.refused(t, "127.0.0.1", wire.BenchDoorPath, jsonType, wire.BenchDoor{Seconds: 1}, http.StatusBadRequest, "from: 0 addresses")
	l.refused(t, "127.0.0.1", wire.CapturePath, jsonType, wire.Capture{}, http.StatusForbidden, "spec.debug.capture")

	shut := 0
	stranger := netip.MustParseAddr("10.7.0.9")
	for _, from := range []netip.Addr{stranger, farAddress.Addr()} {
		ctx, cancel := context.WithCancel(t.Context())
		var door wire.BenchOpened
		l.decoded(ctx, t, wire.BenchDoorPath, wire.BenchDoor{From: []netip.Addr{from}, Seconds: 60}, &door)
		must(t, door.Validate())
		if len(door.At) != 1 || door.At[0].Addr() != memberAddress.Addr() {
			t.Fatalf("%+v", door)
		}
		l.refused(t, "127.0.0.1", wire.BenchDoorPath, jsonType, ask, http.StatusConflict, "one at a time")
		dial := func(ctx context.Context) (datapath.Stream, error) { return l.far.DialTCP(ctx, door.At[0]) }
		run := wire.BenchRun{To: door.At, Token: door.Token, Streams: 2, Seconds: 1, MaxBytes: 8 << 20}
		var phases []wire.BenchPhase
		err := bench.Run(ctx, run, dial, func(e wire.BenchEvent) error {
			if e.Phase != nil {
				phases = append(phases, *e.Phase)
			}
			return nil
		})
		if from == stranger {
			if err == nil || len(phases) > 0 {
				t.Errorf("a door for another is open: %v", phases)
			}
		} else if err != nil || len(phases) != 5 || phases[1].Bytes == 0 || phases[2].Bytes == 0 {
			t.Errorf("%v %+v", err, phases)
		}
		cancel() // who asked goes away, and the door is shut
		eventually(t, "shut the door", func() error {
			s, err := l.far.DialTCP(t.Context(), door.At[0])
			if err == nil {
				s.Abort()
				return errors.New("open")
			}
			return nil
		})
		shut++
		eventually(t, "room for another", func() error {
			if strings.Count(l.log.String(), "bench: port shut") < shut {
				return errors.New("not yet")
			}
			return nil
		})
	}
	l.carries(t) // what was open is open
	l.told(t, "the tunnel is measured from [10.7.0.1]")

	var door wire.BenchOpened
	res := l.decoded(t.Context(), t, wire.BenchDoorPath, ask, &door)
	watch.send(t, l.allow(&c, nil)) // what is withdrawn ends
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Error(err)
	}
	l.stop(t)
}

// The member measures the tunnel to where it is told, if that is a peer's.
func TestBenchRun(t *testing.T) {
	l := newLab(t)
	c := l.config()
	c.Debug = &wire.Debug{Bench: true}
	l.start(t)
	l.c.next(t, "").send(t, snapshot(c))
	l.carries(t)
	token := bench.NewToken()
	listener := listenAll(l.far)
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { bench.Responder{Token: token}.Serve(ctx, listener) })
	ask := wire.BenchRun{To: []netip.AddrPort{netip.MustParseAddrPort("10.99.0.1:50000")}, Token: token, Streams: 2, Seconds: 1, MaxBytes: 8 << 20}
	l.refused(t, "127.0.0.1", wire.BenchRunPath, jsonType, ask, http.StatusConflict, "no peer of this pod has an address of")
	ask.To = append(ask.To, netip.AddrPortFrom(farAddress.Addr(), 50000))
	res, err := l.post(ctx, "127.0.0.1", wire.BenchRunPath, jsonType, ask)
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	phases, done := 0, false
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		var e wire.BenchEvent
		must(t, json.Unmarshal(s.Bytes(), &e))
		must(t, e.Validate())
		if e.Phase != nil {
			phases++
		}
		done = e.Done
	}
	if phases != 5 || !done {
		t.Errorf("%d phases:\n%s", phases, b)
	}
	l.told(t, "the tunnel to 10.7.0.1 is measured")
	if strings.Contains(l.log.String(), token) {
		t.Error("the log holds the token")
	}
	cancel()
	serving.Wait()
	l.stop(t)
}

// A door is at an address of a member's or a gateway's own: not in a range behind it, nor at an outside peer, nor at a port that has a name.
func TestIsDoorOf(t *testing.T) {
	member := datapath.Peer{AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/32"), netip.MustParsePrefix("fd00::2/128"), netip.MustParsePrefix("192.168.1.0/24")}}
	gateway, outside := member, member
	gateway.Outside, gateway.Gateway, outside.Outside = true, true, true
	for name, test := range map[string]struct {
		peer datapath.Peer
		to   string
		want bool
	}{
		"a member's address":        {member, "10.77.0.2:50000", true},
		"its IPv6 address":          {member, "[fd00::2]:50000", true},
		"a gateway's address":       {gateway, "10.77.0.2:50000", true},
		"an outside peer's address": {outside, "10.77.0.2:50000", false},
		"a host behind it":          {member, "192.168.1.7:50000", false},
		"nobody's address":          {member, "10.77.0.3:50000", false},
		"a port of an application":  {member, "10.77.0.2:8080", false},
		"the least port of a door":  {member, "10.77.0.2:49152", true},
		"the one below":             {member, "10.77.0.2:49151", false},
	} {
		if got := isDoorOf(&test.peer, netip.MustParseAddrPort(test.to)); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
}
