package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// socket is what TCP and UDP have in common over a gVisor endpoint: waiting, deadlines, closing, errors.
type socket struct {
	ep            tcpip.Endpoint
	wq            *waiter.Queue
	network       string // "tcp" or "udp", for errors
	local, remote netip.AddrPort

	readBy, writeBy deadline
	closed          chan struct{}
	closeOnce       sync.Once
	onClose         func() // may be nil; runs once
}

// mask is what a blocked reader or writer wakes for, besides its own event: the end of the connection.
const endEvents = waiter.EventErr | waiter.EventHUp

// until runs try until it no longer would block, and between tries waits for events, the deadline or the socket's end.
func (s *socket) until(op string, events waiter.EventMask, by *deadline, try func() tcpip.Error) error {
	passed, err := s.begin(op, by)
	if err != nil {
		return err
	}
	refused := try()
	if _, block := refused.(*tcpip.ErrWouldBlock); !block {
		return s.fail(op, s.translate(refused))
	}
	w := waits.Get().(*wait)
	defer w.end(s.wq)
	w.begin(s.wq, events|endEvents)
	return s.again(op, w.ready, passed, try)
}

// begin returns a channel for the deadline, or the error if it has passed or the socket has ended.
func (s *socket) begin(op string, by *deadline) (passed <-chan struct{}, err error) {
	passed = by.wait()
	select {
	case <-passed:
		return nil, s.fail(op, os.ErrDeadlineExceeded)
	case <-s.closed:
		return nil, s.fail(op, net.ErrClosed)
	default:
		return passed, nil
	}
}

// again runs try until it no longer would block, now and whenever ready says so.
func (s *socket) again(op string, ready, passed <-chan struct{}, try func() tcpip.Error) error {
	for {
		err := try()
		if _, block := err.(*tcpip.ErrWouldBlock); !block {
			return s.fail(op, s.translate(err))
		}
		select {
		case <-ready:
		case <-passed:
			return s.fail(op, os.ErrDeadlineExceeded)
		case <-s.closed:
			return s.fail(op, net.ErrClosed)
		}
	}
}

// wait is one goroutine's for events of an endpoint. It is used again and again, so that waiting makes no garbage.
type wait struct {
	entry waiter.Entry
	ready chan struct{}
}

var waits = sync.Pool{New: func() any { return &wait{ready: make(chan struct{}, 1)} }}

func (w *wait) begin(q *waiter.Queue, events waiter.EventMask) {
	w.entry.Init(w, events)
	q.EventRegister(&w.entry)
}

// NotifyEvent is called by gVisor, with the queue's lock.
func (w *wait) NotifyEvent(waiter.EventMask) {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *wait) end(q *waiter.Queue) {
	q.EventUnregister(&w.entry) // nobody notifies it from here on
	select {
	case <-w.ready:
	default:
	}
	waits.Put(w)
}

// What gVisor reads from and writes to goes by an interface: these would each be garbage.
var (
	readers = sync.Pool{New: func() any { return new(bytes.Reader) }}
	writers = sync.Pool{New: func() any { return new(tcpip.SliceWriter) }}
)

func putReader(r *bytes.Reader) {
	r.Reset(nil)
	readers.Put(r)
}

func putWriter(w *tcpip.SliceWriter) {
	*w = nil
	writers.Put(w)
}

// WaitReadable returns once a Read would not block, so that who waits need not hold a buffer meanwhile.
func (s *socket) WaitReadable() error {
	return s.until("read", waiter.ReadableEvents, &s.readBy, func() tcpip.Error {
		if s.ep.Readiness(waiter.ReadableEvents|endEvents) == 0 {
			return &tcpip.ErrWouldBlock{}
		}
		return nil
	})
}

// translate prefers net.ErrClosed to whatever gVisor says about a socket that we have closed.
func (s *socket) translate(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	select {
	case <-s.closed:
		return net.ErrClosed
	default:
		return fromTCPIP(err)
	}
}

func (s *socket) fail(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // never wrapped here
		return err
	}
	return opError(op, s.network, s.LocalAddr(), s.RemoteAddr(), err)
}

// shut marks the socket closed, wakes who waits in it and runs end, once.
func (s *socket) shut(end func()) {
	s.closeOnce.Do(func() {
		close(s.closed)
		end()
		if s.onClose != nil {
			s.onClose()
		}
	})
}

func (s *socket) LocalAddr() net.Addr  { return s.addr(s.local) }
func (s *socket) RemoteAddr() net.Addr { return s.addr(s.remote) }

func (s *socket) addr(a netip.AddrPort) net.Addr {
	if s.network == "udp" {
		return net.UDPAddrFromAddrPort(a)
	}
	return net.TCPAddrFromAddrPort(a)
}

func (s *socket) SetDeadline(t time.Time) error {
	s.readBy.set(t)
	s.writeBy.set(t)
	return nil
}

func (s *socket) SetReadDeadline(t time.Time) error {
	s.readBy.set(t)
	return nil
}

func (s *socket) SetWriteDeadline(t time.Time) error {
	s.writeBy.set(t)
	return nil
}
