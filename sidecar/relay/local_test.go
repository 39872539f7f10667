package relay

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// joined is both ends of a loopback connection.
func joined(t *testing.T) (a, b localStream) {
	t.Helper()
	ln, err := listenTCP(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = dialLocalTCP(context.Background(), ln.Addr().(*net.TCPAddr).AddrPort(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	b = localStream{c}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// TestUnwritableIsNotRead: where buffers are scarce, what comes through the tunnel for an application that does not read stays in the tunnel, whose
// windows are bounded; and comes once it does.
func TestUnwritableIsNotRead(t *testing.T) {
	for _, c := range []struct {
		name   string
		scarce bool
	}{{"scarce", true}, {"plenty", false}} {
		t.Run(c.name, func(t *testing.T) {
			peer, tunnel := joined(t)
			local, app := joined(t)
			full := stuff(t, local)
			h := backlogged(t, tunnel, local)
			if !c.scarce {
				h.in.lender = newLender(256)
			}
			must(peer.Write(make([]byte, 5000)))
			ended := make(chan error)
			go func() {
				_, err := h.copy()
				ended <- err
			}()
			if c.scarce {
				eventually(t, "it waits to write", func() bool { return h.state.Load() == writing })
				if n := pending(t, tunnel); n != 5000 {
					t.Errorf("%d bytes are left to the tunnel, want 5000", n)
				}
			} else {
				eventually(t, "all is read", func() bool { return pending(t, tunnel) == 0 })
			}
			_ = peer.CloseWrite()
			if _, err := io.CopyN(io.Discard, app, int64(full+5000)); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

type backloggedStream struct {
	waiterStream
	unread func() int
}

func (b backloggedStream) Unread() int { return b.unread() }

// TestEndWhileUnwritable: what has ended for an application that does not read is over, once it has all.
func TestEndWhileUnwritable(t *testing.T) {
	peer, tunnel := joined(t)
	local, _ := joined(t)
	stuff(t, local)
	_ = peer.CloseWrite()
	if readErr, writeErr := backlogged(t, tunnel, local).copy(); readErr != nil || writeErr != nil {
		t.Errorf("%v, %v", readErr, writeErr)
	}
}

// TestGoneWhileUnwritable: an application that vanishes meanwhile ends the wait, and so does the end of its connection.
func TestGoneWhileUnwritable(t *testing.T) {
	for name, end := range map[string]func(local, app localStream){
		"reset":  func(_, app localStream) { app.Abort() },
		"closed": func(local, _ localStream) { _ = local.Close() },
	} {
		peer, tunnel := joined(t)
		local, app := joined(t)
		stuff(t, local)
		must(peer.Write(make([]byte, 5000)))
		h := backlogged(t, tunnel, local)
		ended := make(chan error)
		go func() {
			_, err := h.copy()
			ended <- err
		}()
		eventually(t, "it waits to write", func() bool { return h.state.Load() == writing })
		if end(local, app); <-ended == nil {
			t.Errorf("%s: it is written to", name)
		}
	}
}

// backlogged is a half from such a stream, where buffers are scarce.
func backlogged(t *testing.T, tunnel, local localStream) *half {
	in := backloggedStream{(&fakeNet{mode: waiterMode}).wrap(tunnel.TCPConn).(waiterStream), func() int { return pending(t, tunnel) }}
	return &half{in: newReader(in, newLender(0), largeBuffer, false), out: local, count: new(atomic.Uint64)}
}

// stuff writes until nothing more can be, and returns how much that was.
func stuff(t *testing.T, c localStream) (n int) {
	t.Helper()
	for refused := 0; refused < 3; { // one that was late says nothing
		_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		m, err := c.Write(make([]byte, 64<<10))
		if n += m; err != nil && m == 0 {
			refused++
		}
	}
	_ = c.SetWriteDeadline(time.Time{})
	return n
}

// pending is how many bytes wait at a socket to be read.
func pending(t *testing.T, c localStream) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n = unread(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
