//go:build linux

package oslink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// tcpDoor listens for one open port. Only the kernel's own rule leads to it: the listener is held to the interface, and the
// interface lets nobody through to it directly.
type tcpDoor struct {
	l        *Link
	ln       *net.TCPListener
	from, to uint16
}

func (l *Link) openTCP(from, to uint16) (*tcpDoor, error) {
	lc := net.ListenConfig{Control: l.holdListener, KeepAliveConfig: keepalive}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(l.ctx, "tcp", fmt.Sprintf(":%d", to))
	if err != nil {
		return nil, err
	}
	d := &tcpDoor{l: l, ln: ln.(*net.TCPListener), from: from, to: addrPort(ln.Addr()).Port()}
	go d.accept()
	return d, nil
}

func (l *Link) holdListener(_, _ string, c syscall.RawConn) error {
	return control(c, func(fd int) error {
		if err := unix.BindToDevice(fd, l.name); err != nil {
			return os.NewSyscallError("bind to interface "+l.name, err)
		}
		return nil
	})
}

func (d *tcpDoor) close() { _ = d.ln.Close() }

func (d *tcpDoor) accept() {
	for {
		c, err := d.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors or memory: passing, but not for a loop that does not wait
			if !sleep(d.l.ctx, 20*time.Millisecond) {
				return
			}
			continue
		}
		d.offer(c)
	}
}

func (d *tcpDoor) offer(c *net.TCPConn) {
	h := d.l.handleTCP.Load()
	q := &tcpRequest{l: d.l, c: c, remote: addrPort(c.RemoteAddr()),
		at: netip.AddrPortFrom(addrPort(c.LocalAddr()).Addr(), d.from)}
	if h == nil {
		abort(c)
		return
	}
	if !d.l.tcpSlots.Take(q.remote.Addr()) {
		d.l.overLimit.Add(1)
		abort(c)
		return
	}
	if d.l.track(q) {
		go (*h)(q)
	}
}

// tcpRequest is a connection that the kernel has accepted and nobody has answered. The first of Accept and Refuse answers it.
type tcpRequest struct {
	l        *Link
	c        *net.TCPConn
	at       netip.AddrPort
	remote   netip.AddrPort
	answered atomic.Bool
}

var (
	_           datapath.TCPRequest = (*tcpRequest)(nil)
	errAnswered                     = errors.New("already answered")
)

func (q *tcpRequest) Local() netip.AddrPort  { return q.at }
func (q *tcpRequest) Remote() netip.AddrPort { return q.remote }

// Accept hands over the connection.
func (q *tcpRequest) Accept() (datapath.Stream, error) {
	if !q.answer() {
		return nil, fmt.Errorf("accept: %w", errAnswered)
	}
	s := newStream(q.l, q.c, q.at)
	if !q.l.track(s) {
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	}
	return s, nil
}

// Refuse resets the connection: the handshake is over.
func (q *tcpRequest) Refuse() {
	if q.answer() {
		abort(q.c)
	}
}

func (q *tcpRequest) answer() bool {
	if q.answered.Swap(true) {
		return false
	}
	q.l.untrack(q)
	q.l.tcpSlots.Give(q.remote.Addr())
	return true
}

func (q *tcpRequest) local() netip.Addr { return q.at.Addr() }
func (q *tcpRequest) end()              { abort(q.c) }

// sleep waits; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
