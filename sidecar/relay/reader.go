package relay

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A connection of the Network may offer more than its interface asks for. Each of these is optional and makes the relay
// cheaper or more faithful; one that is a kernel socket (a syscall.Conn) needs none but the last.
type (
	// ReadWaiter blocks until Read would not: data, end or error. Close and a read deadline end the wait. With it an idle
	// connection costs no buffer.
	ReadWaiter interface{ WaitReadable() error }
	// Resetter says, without blocking, whether the peer has reset the connection, however often it is asked and whoever has
	// seen the error before. It is asked where a read cannot tell: while the other side is stalled, and after the end, which
	// is what a read finds when a concurrent write was handed the error.
	Resetter interface{ Reset() bool }
	// BulkSizer says how many bytes one Write should carry so that they fill whole segments; at most 64 KiB are used.
	BulkSizer interface{ ChunkSize() int }
	// Reserver waits until a Write would not, of as many bytes as it says, n at most. With it a bulk write that waits costs no buffer
	// where these are scarce.
	Reserver interface{ Reserve(n int) (int, error) }
	// Backlogged says how many bytes wait to be read. With it, and a ReadWaiter, they wait there until they can be written, where buffers are scarce.
	Backlogged interface{ Unread() int }
	// Piecemeal says, of a kernel socket, whether a stream comes to it in small pieces, so that reads should wait for more.
	Piecemeal interface{ Singly() bool }
)

// reader reads a connection with a buffer that it holds only while there are bytes in it, where the connection allows that.
// It is used by one goroutine. After next, the bytes are valid until release.
type reader struct {
	conn   net.Conn
	raw    syscall.RawConn // set: a kernel socket
	waiter ReadWaiter      // set: can wait without a buffer
	lender *lender
	bulk   int        // bytes of a bulk read
	pace   *coalescer // set: says when a read waits
	packet bool       // datagrams: always room for the largest, and zero bytes are not the end
	grown  bool       // the last read filled its buffer
	yields bool       // leaves the last large buffers to others
	room   int        // what the next read should bring, which can be written at once; zero: that is not known

	buf  *[]byte
	size int // of it, that was to be filled
	n    int
	err  error
	try  func(fd uintptr) bool // made once: a closure for each read would be garbage for each read
}

func newReader(conn net.Conn, l *lender, bulk int, packet bool) *reader {
	r := &reader{conn: conn, lender: l, bulk: bulk, packet: packet}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw, r.try = raw, r.tryRaw
			return r
		}
	}
	r.waiter, _ = conn.(ReadWaiter)
	return r
}

// coalesce has reads wait in the middle of a long transfer, where a stream comes in small pieces. replies counts the writes of the
// other direction.
func (r *reader) coalesce(replies *atomic.Uint32) {
	if p, ok := r.conn.(Piecemeal); ok && r.raw != nil && p.Singly() {
		r.pace = &coalescer{replies: replies}
	}
}

// next blocks for bytes. io.EOF is the peer's FIN; bytes may come together with an error.
func (r *reader) next() ([]byte, error) {
	r.n, r.err = 0, nil
	switch {
	case r.raw != nil:
		r.nextRaw()
	case r.waiter != nil:
		if r.err = r.waiter.WaitReadable(); r.err == nil || errors.Is(r.err, io.EOF) {
			r.n, r.err = r.conn.Read(r.borrow())
		}
	default:
		r.n, r.err = r.conn.Read(r.borrow())
	}
	if r.n == 0 && r.err != nil {
		r.release()
		return nil, r.err
	}
	r.adapt()
	r.room = 0
	return (*r.buf)[:r.n], r.err
}

// waiting is how many bytes wait to be read in bulk, where a buffer should be taken only once they can be written; zero: read.
func (r *reader) waiting() (n int) {
	if !r.grown || r.raw == nil || !r.lender.scarce() {
		return 0
	}
	_ = r.raw.Control(func(fd uintptr) { n = unread(int(fd)) })
	switch {
	case n <= smallBuffer:
		return 0
	case n >= r.bulk/2:
		return r.bulk // by then there will be more
	}
	return n
}

func (r *reader) nextRaw() {
	if r.pace != nil {
		time.Sleep(r.pace.before())
	}
	if err := r.raw.Read(r.try); err != nil {
		r.err = err
	}
	if r.pace != nil && r.n > 0 {
		r.pace.after(r.n, r.filled(), time.Now())
	}
}

// tryRaw is one non-blocking read; false means wait, and nothing is held meanwhile.
func (r *reader) tryRaw(fd uintptr) bool {
	b := r.borrow()
	for {
		r.n, r.err = unix.Read(int(fd), b)
		if !errors.Is(r.err, unix.EINTR) {
			break
		}
	}
	if errors.Is(r.err, unix.EAGAIN) {
		r.n, r.err = 0, nil
		r.release()
		return false
	}
	if r.err != nil {
		r.n = 0
	} else if r.n == 0 && !r.packet {
		r.err = io.EOF
	}
	return true
}

// filled says whether the last read took all that it could: there may be more.
func (r *reader) filled() bool { return r.n >= r.size }

// adapt chooses the next buffer. One that cannot wait without a buffer goes back to the small one as soon as it has caught
// up, so that it does not sit idle on a large one.
func (r *reader) adapt() {
	switch {
	case r.filled():
		r.grown = true
	case r.n < smallBuffer/2, r.raw == nil && r.waiter == nil:
		r.grown = false
	}
}

func (r *reader) borrow() []byte {
	r.release()
	switch {
	case r.packet:
		r.buf = r.lender.takeAny()
	case r.room > 0:
		r.buf, r.size = r.lender.takeAny(), min(r.room, r.bulk)
		return (*r.buf)[:r.size]
	default:
		r.buf = r.lender.take(r.grown, r.yields)
	}
	r.size = min(len(*r.buf), r.bulk)
	return (*r.buf)[:r.size]
}

func (r *reader) release() {
	if r.buf != nil {
		r.lender.give(r.buf)
		r.buf = nil
	}
}

// reset says whether the peer has reset the connection, as far as can be told without reading. finished says that we have
// sent FIN, or are about to.
func (r *reader) reset(finished bool) bool {
	if rs, ok := r.conn.(Resetter); ok {
		return rs.Reset()
	}
	if r.raw == nil {
		return false
	}
	dead := false
	err := r.raw.Control(func(fd uintptr) {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		// The error is handed out once, and a writer may have had it. A closed connection says the same, unless our FIN
		// and the peer's have crossed.
		dead = err == nil && code != 0 || !finished && closedTCP(int(fd))
	})
	return err == nil && dead
}
