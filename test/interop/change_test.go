package interop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sequenceTo starts a numbered transfer from the sidecar's application to a server on the far host.
func sequenceTo(t *testing.T, s *sidecar, far *tunHost, port int) (*sequence, func()) {
	t.Helper()
	q := newSequence()
	at := s.forward("TCP", port, far.serveTCP(t, far.inner(false).String()+":0", q.receive))
	return q, func() {
		t.Helper()
		c, err := s.dial("tcp", at)
		must(t, "dial", err)
		go q.send(c)
		q.advances(t, "the start")
	}
}

// TestInteropRoaming moves the far end, then our own end, to another outer address while a transfer runs. Every wireguard-go keeps
// the source address that it last used until it has heard nothing for 15 seconds, so a move takes that long.
func TestInteropRoaming(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(families[six], func(t *testing.T) {
			p := newPair(t, six)
			q, begin := sequenceTo(t, p.side, p.far, 7001)
			p.side.conf.Peers[0].Keepalive = "1s"
			p.far.peer(t, p.side.identity, netip.Addr{}, "persistent-keepalive", "1")
			p.side.run(t)
			begin()
			for _, m := range []struct {
				what     string
				h        *host
				from, to int
			}{{"the far end moved", p.far.host, 2, 3}, {"our end moved", p.side.host, 1, 4}} {
				start := time.Now()
				move(t, m.h, m.from, m.to, six)
				q.advances(t, m.what)
				t.Logf("%s: well again after %s", m.what, time.Since(start).Round(time.Second))
			}
			want := netip.AddrPortFrom(outer(1, 4, six), outerPort).String()
			if s := p.far.show(t, p.side.identity); s.endpoint != want {
				t.Errorf("the far end knows us at %s, want %s", s.endpoint, want)
			}
			q.finish(t)
		})
	}
}

// move replaces a host's outer address on network 1.
func move(t *testing.T, h *host, from, to int, six bool) {
	t.Helper()
	bits := map[bool]string{false: "/24", true: "/64"}[six]
	old := address(outer(1, from, six).String() + bits)
	old.Broadcast = nil
	must(t, "remove address", h.nl.AddrDel(h.link(t, "eth-1"), old))
	h.addAddress(t, "eth-1", outer(1, to, six).String()+bits)
}

// hup makes the sidecar read its file again and waits until it says what came of it.
func (s *sidecar) hup(t *testing.T, want string) {
	t.Helper()
	before := strings.Count(s.proc.log.String(), want)
	must(t, "signal", s.proc.cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "reload", func() error {
		if strings.Count(s.proc.log.String(), want) > before {
			return nil
		}
		return errors.Join(s.proc.running(), fmt.Errorf("it has not said %q", want))
	})
}

// TestInteropReload adds and removes a peer under a running transfer with another, and survives files that are not good.
func TestInteropReload(t *testing.T) {
	p := newPair(t, false)
	second := newHost(t)
	connect(t, p.side.host, second, 2)
	third := newTUN(t, second, newIdentity(3))
	third.peer(t, p.side.identity, outer(2, 1, false))
	echo := p.side.serveTCP(t, "127.0.0.1:0", echoTCP)
	p.side.conf.Expose = []confExpose{{80, "TCP", echo.String()}}
	to := netip.AddrPortFrom(p.side.inner(false), 80).String()
	q, begin := sequenceTo(t, p.side, p.far, 7001)
	p.side.run(t)
	begin()
	handshake := p.far.show(t, p.side.identity).handshake

	without := p.side.conf
	p.side.peer(third.identity, outer(2, 2, false))
	p.side.write(t)
	p.side.hup(t, "configuration reloaded")
	q.advances(t, "a peer was added")
	must(t, "the new peer", third.echoesTCP(to))

	must(t, "write", os.WriteFile(p.side.path(), []byte("peers: [{publicKey: garbage"), 0o644))
	p.side.hup(t, "the last good one runs on")
	other := p.side.conf
	other.Interface.ListenPort++
	fixed := p.side.conf
	p.side.conf = other
	p.side.write(t)
	p.side.hup(t, "the last good one runs on")
	p.side.conf = fixed
	must(t, "the new peer after bad files", third.echoesTCP(to))
	q.advances(t, "bad files were refused")

	p.side.conf = without
	p.side.write(t)
	p.side.hup(t, "configuration reloaded")
	var err error
	third.do(func() { _, err = net.DialTimeout("tcp", to, 3*time.Second) })
	if err == nil {
		t.Error("a removed peer still connects")
	}
	q.advances(t, "a peer was removed")
	if now := p.far.show(t, p.side.identity).handshake; !now.Equal(handshake) && now.Sub(handshake) < 100*time.Second {
		t.Errorf("the undisturbed peer shook hands anew: %s, then %s", handshake, now)
	}
	q.finish(t)
}

// TestInteropTerm: SIGTERM lets what is under way finish, cuts what does not end, and ends well within the time given.
func TestInteropTerm(t *testing.T) {
	const drain = 3 * time.Second
	p := newPair(t, false)
	finite, beginFinite := sequenceTo(t, p.side, p.far, 7001)
	endless, beginEndless := sequenceTo(t, p.side, p.far, 7002)
	p.side.run(t, "--drain", drain.String())
	beginFinite()
	beginEndless()
	start := time.Now()
	must(t, "signal", p.side.proc.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "not ready while draining", func() error {
		if _, err := p.side.get("/readyz"); err == nil {
			return errors.New("it says that it is ready")
		}
		return nil
	})
	finite.advances(t, "SIGTERM")
	finite.finish(t)
	select {
	case <-p.side.proc.exited:
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if took := time.Since(start); took < drain || took > drain+patience/2 {
		t.Errorf("it took %s to end, with %s to drain", took, drain)
	}
	if p.side.proc.err != nil {
		t.Errorf("it ended with %v, want exit code 0", p.side.proc.err)
	}
	select {
	case err := <-endless.done:
		if err == nil {
			t.Error("the endless transfer ended well")
		}
	case <-time.After(patience):
		t.Error("the endless transfer was not cut")
	}
}
