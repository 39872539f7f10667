package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// stream is a TCP connection through the tunnel.
type stream struct {
	socket
	chunk   int // payload of one aligned super-segment
	segment int // payload of one packet
	flight  flight
	backlog backlog
	writeMu sync.Mutex
	readMu  sync.Mutex
	finSent atomic.Bool
}

var _ datapath.Stream = (*stream)(nil)

func (s *Stack) newStream(ep tcpip.Endpoint, wq *waiter.Queue, local, remote netip.AddrPort) *stream {
	keepAlive(ep)
	ep.SocketOptions().SetSendBufferSize(sendDefault, true) // from here on its size is ours to choose
	mtu, to := int(s.link.mtu.Load()), remote.Addr()
	c := &stream{
		socket:  socket{ep: ep, wq: wq, network: "tcp", local: local, remote: remote, closed: make(chan struct{})},
		chunk:   superPayload(mtu, to),
		segment: superPayload(mtu, to) / segmentsPerSuper(mtu),
		flight:  flight{path: s.paths.join(to), turn: turn{ready: make(chan struct{}, 1)}},
	}
	c.flight.entry.Init(c, waiter.WritableEvents|endEvents)
	wq.EventRegister(&c.flight.entry)
	now := time.Now()
	c.measure(now)
	o := ep.SocketOptions()
	c.backlog.unread, c.backlog.least = c.Unread, max(backlogLeast, 4*c.segment)
	c.backlog.begin(&s.backlogs, int(o.GetReceiveBufferSize()), c.flight.path.bare(now))
	o.SetReceiveBufferSize(int64(c.backlog.size), true) // the next segment says so, or one of its own if the peer has sent all that it might
	c.onClose = c.leave
	return c
}

// leave gives back what the stream shares with others. Who reads is woken already, and done with it.
func (c *stream) leave() {
	c.wq.EventUnregister(&c.flight.entry)
	c.flight.path.release(c)
	c.flight.path.leave()
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.backlog.end()
}

// Read reads what has arrived. After the peer's FIN it returns io.EOF, after its RST an error that is ECONNRESET.
func (c *stream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	var n int
	w := writers.Get().(*tcpip.SliceWriter)
	defer putWriter(w)
	err := c.until("read", waiter.ReadableEvents, &c.readBy, func() tcpip.Error {
		*w = b
		res, err := c.ep.Read(w, tcpip.ReadOptions{})
		n = res.Count
		return err
	})
	if n > 0 {
		if c.backlog.took(n, time.Now(), c.waits) {
			c.ep.SocketOptions().SetReceiveBufferSize(int64(c.backlog.size), true)
		}
		return n, nil
	}
	if err == io.EOF && tcp.EndpointState(c.ep.State()) == tcp.StateError { //nolint:errorlint // never wrapped here
		return 0, c.fail("read", syscall.ECONNRESET)
	}
	return 0, err
}

// Write queues all of b, waiting for turns. It cuts b where aligned super-segments end, because gVisor makes a segment of
// each write and does not join them; ChunkSize is the best size to write.
func (c *stream) Write(b []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	r := readers.Get().(*bytes.Reader)
	defer putReader(r)
	next := min(c.flight.reserved, len(b))
	c.flight.reserved = 0
	if next == 0 {
		c.flight.little = len(b) <= flightLittle
		next = c.message(len(b))
	}
	for done := 0; ; next = c.message(len(b) - done) {
		n, err := c.writeMessage(b[done:done+next], r)
		if done += n; err != nil || done == len(b) {
			return done, err
		}
	}
}

func (c *stream) writeMessage(b []byte, r *bytes.Reader) (done int, err error) {
	err = c.inTurn(func() tcpip.Error {
		n, err := c.write(b, r)
		done = int(n)
		return err
	})
	return done, err
}

// Reserve waits until a Write would not, of as many bytes as it says, n at most: who has that many need not hold them meanwhile.
func (c *stream) Reserve(n int) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.flight.little, c.flight.reserved = n <= flightLittle, 0
	n = c.message(n)
	err := c.inTurn(func() tcpip.Error {
		now := time.Now()
		c.measure(now)
		room, ok := c.flight.path.reserve(c, n, now)
		if !ok {
			return &tcpip.ErrWouldBlock{}
		}
		c.flight.reserved = room
		return nil
	})
	select {
	case <-c.closed: // what was granted after that nobody else gives back
		c.flight.path.quit(c)
		err = c.fail("write", net.ErrClosed)
	default:
	}
	if err != nil {
		c.flight.reserved = 0
	}
	return c.flight.reserved, err
}

// inTurn runs try until it no longer would block. Who gives up leaves the line, and what it was granted.
func (c *stream) inTurn(try func() tcpip.Error) error {
	passed, err := c.begin("write", &c.writeBy)
	if err == nil {
		err = c.again("write", c.flight.ready, passed, try)
	}
	if err != nil {
		c.flight.path.quit(c)
	}
	return err
}

// ChunkSize is the payload of one full super-segment: a writer that has this much should write it at once.
func (c *stream) ChunkSize() int { return c.chunk }

// Reset says whether the connection has ended otherwise than by both sides' FIN. gVisor hands the error out once, to a Read or a
// Write; this is for whoever else needs to know.
func (c *stream) Reset() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateError:
		return true
	case tcp.StateClose:
		return !c.finSent.Load()
	}
	return false
}

// CloseWrite sends FIN after what is queued; reading goes on.
func (c *stream) CloseWrite() error {
	c.finSent.Store(true)
	return c.fail("close", c.translate(c.ep.Shutdown(tcpip.ShutdownWrite)))
}

// Close ends both directions. What was written is still delivered; what was not read makes gVisor answer with RST.
func (c *stream) Close() error {
	c.shut(c.ep.Close)
	return nil
}

// Abort sends RST and drops what is queued.
func (c *stream) Abort() { c.shut(c.ep.Abort) }
