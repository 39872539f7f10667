package wireguard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wantBuffer is the socket buffer that we ask for each way. What waits in it is what a request waits behind, so it holds some
// milliseconds of the highest rate and no more.
const wantBuffer = 2 << 20

const (
	inboxMessages = 4        // read by one system call
	inboxRoom     = 64 << 10 // of each
	controlRoom   = 64       // bytes: packet information and the size of a segment
)

// socket is one address family's UDP socket. Messages are read and written by system calls of our own, because the standard
// library's neither join nor scatter.
type socket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	six   bool
	whole atomic.Bool // the system cuts messages into datagrams (UDP GSO)
	outs  sync.Pool
	mode  sync.RWMutex // who sends reads; who sends otherwise than usually writes
	usual int          // what becomes of packets that are too long
}

// prepare sets what has to be set before the socket is bound.
func prepare(network string, c syscall.RawConn, mark uint32) error {
	var failed error
	err := c.Control(func(u uintptr) {
		fd := int(u)
		for _, o := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, wantBuffer) // as much as we may have; beyond that only with privileges
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // without it, datagrams come one by one
		if network == "udp6" {
			failed = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
				unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
		} else {
			failed = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
		if mark != 0 {
			failed = errors.Join(failed, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
		}
	})
	return errors.Join(err, failed)
}

func newSocket(conn *net.UDPConn, six bool) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, raw: raw, six: six}
	s.outs.New = func() any { return newOutbox(s) }
	err = raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.whole.Store(err == nil)
		if s.usual, err = unix.GetsockoptInt(int(fd), s.level(), s.discover()); err != nil {
			s.usual = unix.IP_PMTUDISC_WANT
		}
	})
	return s, err
}

// outbox is a message on its way into the system. It is used again and again, so that sending makes no garbage.
type outbox struct {
	s       *socket
	hdr     unix.Msghdr
	vecs    [MaxPackets]unix.Iovec
	name    [unix.SizeofSockaddrInet6]byte
	control [controlRoom]byte
	err     unix.Errno
	now     func(uintptr)      // one attempt
	wait    func(uintptr) bool // attempts while the socket is full
}

func newOutbox(s *socket) *outbox {
	o := &outbox{s: s}
	o.hdr.Name, o.hdr.Iov = &o.name[0], &o.vecs[0]
	o.now = func(fd uintptr) { o.attempt(fd) }
	o.wait = func(fd uintptr) bool { return o.attempt(fd) }
	return o
}

// attempt sends without waiting, and says whether it need not be tried again. A call that never waits needs no leave of the scheduler, and
// must not take it: beyond 20 µs others run on this goroutine's CPU, and who sends may hold a lock of gVisor's that its processor, which is
// then what runs, spins for until it is preempted after 10 ms.
func (o *outbox) attempt(fd uintptr) (done bool) {
	for {
		_, _, o.err = unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&o.hdr)), unix.MSG_DONTWAIT)
		if o.err != unix.EINTR {
			return o.err != unix.EAGAIN
		}
	}
}

// send sends packets that make one message; see messageLength. It says whether they were too long for the path, as far as the system
// knows it.
func (s *socket) send(to *endpoint, packets [][]byte) (tooLong bool, err error) {
	s.mode.RLock()
	defer s.mode.RUnlock()
	return s.inParts(to, packets)
}

// inParts is send for those who hold the mode.
func (s *socket) inParts(to *endpoint, packets [][]byte) (tooLong bool, err error) {
	if len(packets) > 1 && !s.whole.Load() {
		return false, s.sendSingly(to, packets)
	}
	err = s.sendMessage(to, packets)
	switch {
	case len(packets) == 1 || err == nil:
		return false, err
	case errors.Is(err, unix.EIO):
		// The network card does not make checksums, which cutting needs.
		s.whole.Store(false)
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE):
		tooLong = true
	default:
		return false, err
	}
	// Packets longer than the path's MTU are refused together; each by itself is fragmented.
	return tooLong, s.sendSingly(to, packets)
}

func (s *socket) sendSingly(to *endpoint, packets [][]byte) error {
	for i := range packets {
		if err := s.sendMessage(to, packets[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (s *socket) sendMessage(to *endpoint, packets [][]byte) error {
	o := s.outs.Get().(*outbox)
	defer s.outs.Put(o)
	o.address(to.to)
	o.gather(packets)
	o.describe(to, packets)
	err := s.raw.Control(o.now) // several goroutines may be in here at once
	if err == nil && o.err == unix.EAGAIN {
		err = s.raw.Write(o.wait) // one after the other
	}
	clear(o.vecs[:o.hdr.Iovlen])
	if err == nil && o.err != 0 {
		err = fmt.Errorf("send: %w", o.err)
	}
	return err
}

// address writes the destination.
func (o *outbox) address(to netip.AddrPort) {
	binary.BigEndian.PutUint16(o.name[2:], to.Port())
	if o.s.six {
		binary.NativeEndian.PutUint16(o.name[:], unix.AF_INET6)
		clear(o.name[4:])
		a := to.Addr().As16()
		copy(o.name[8:], a[:])
		o.hdr.Namelen = unix.SizeofSockaddrInet6
		return
	}
	binary.NativeEndian.PutUint16(o.name[:], unix.AF_INET)
	a := to.Addr().As4()
	copy(o.name[4:], a[:])
	clear(o.name[8:unix.SizeofSockaddrInet4])
	o.hdr.Namelen = unix.SizeofSockaddrInet4
}

// gather says where the packets lie; neighbours are one piece.
func (o *outbox) gather(packets [][]byte) {
	n := 0
	var end uintptr
	for _, p := range packets {
		start := unsafe.SliceData(p)
		if n > 0 && uintptr(unsafe.Pointer(start)) == end {
			o.vecs[n-1].SetLen(int(o.vecs[n-1].Len) + len(p))
		} else {
			o.vecs[n].Base = start
			o.vecs[n].SetLen(len(p))
			n++
		}
		end = uintptr(unsafe.Pointer(start)) + uintptr(len(p))
	}
	o.hdr.SetIovlen(n)
}

// describe writes which address of ours to send from, and the size of the segments.
func (o *outbox) describe(to *endpoint, packets [][]byte) {
	b := o.control[:0]
	switch {
	case !to.from.IsValid():
	case o.s.six:
		a := to.from.As16()
		b = control(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		copy(b[len(b)-align(unix.SizeofInet6Pktinfo):], a[:])
		binary.NativeEndian.PutUint32(b[len(b)-align(unix.SizeofInet6Pktinfo)+16:], uint32(to.ifidx))
	default:
		a := to.from.As4()
		b = control(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		at := len(b) - align(unix.SizeofInet4Pktinfo)
		binary.NativeEndian.PutUint32(b[at:], uint32(to.ifidx))
		copy(b[at+4:], a[:])
	}
	if len(packets) > 1 {
		b = control(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(b[len(b)-align(2):], uint16(len(packets[0])))
	}
	o.hdr.Control = nil
	if len(b) > 0 {
		o.hdr.Control = &o.control[0]
	}
	o.hdr.SetControllen(len(b))
}

// control appends the header of a control message and room for its data, all zero.
func control(b []byte, level, kind int32, size int) []byte {
	at := len(b)
	b = b[:at+unix.CmsgSpace(size)]
	clear(b[at:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(size))
	return b
}

func align(n int) int { return unix.CmsgSpace(n) - unix.CmsgLen(0) }

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// inbox reads a socket, on one goroutine.
type inbox struct {
	s       *socket
	room    []byte
	hdrs    [inboxMessages]mmsghdr
	vecs    [inboxMessages]unix.Iovec
	names   [inboxMessages][unix.SizeofSockaddrInet6]byte
	control [inboxMessages][controlRoom * 2]byte
	out     [inboxMessages]message
	n       int
	looked  instant // when it was last looked whether the socket had no room
	err     unix.Errno
	try     func(uintptr) bool
	memory  [meminfos]uint32
	look    func(uintptr)
	last    *endpoint // whom the last message came from: mostly the next one's too
	known   map[endpoint]*endpoint
}

// inboxSenders is how many senders are remembered, so that those who take turns make no garbage.
const inboxSenders = 1024

func (s *socket) newInbox() *inbox {
	in := &inbox{s: s, room: make([]byte, inboxMessages*inboxRoom)}
	for i := range in.hdrs {
		in.vecs[i].Base = &in.room[i*inboxRoom]
		in.vecs[i].SetLen(inboxRoom)
		h := &in.hdrs[i].hdr
		h.Name, h.Iov, h.Control = &in.names[i][0], &in.vecs[i], &in.control[i][0]
		h.SetIovlen(1)
	}
	in.try, in.look = in.attempt, in.measure
	return in
}

// attempt reads what is there, as outbox.attempt sends.
func (in *inbox) attempt(fd uintptr) (done bool) {
	for i := range in.hdrs {
		in.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet6
		in.hdrs[i].hdr.SetControllen(len(in.control[i]))
	}
	for {
		n, _, err := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in.hdrs[0])), inboxMessages, unix.MSG_DONTWAIT, 0, 0)
		in.n, in.err = int(n), err
		if err != unix.EINTR {
			return err != unix.EAGAIN
		}
	}
}

// read waits for messages. They are valid until the next read.
func (in *inbox) read() ([]message, error) {
	if err := in.s.raw.Read(in.try); err != nil {
		return nil, err
	}
	if in.err != 0 {
		return nil, in.err
	}
	for i := range in.n {
		h := &in.hdrs[i]
		m := message{data: in.room[i*inboxRoom:][:h.n]}
		at := endpoint{to: in.sender(i)}
		in.parse(in.control[i][:h.hdr.Controllen], &m, &at)
		if in.last == nil || *in.last != at {
			in.last = in.remember(at)
		}
		m.from = in.last
		in.out[i] = m
	}
	return in.out[:in.n], nil
}

// remember returns the endpoint that stands for all equal ones.
func (in *inbox) remember(at endpoint) *endpoint {
	if e := in.known[at]; e != nil {
		return e
	}
	if in.known == nil || len(in.known) >= inboxSenders {
		in.known = make(map[endpoint]*endpoint)
	}
	e := new(endpoint) // not the parameter's address, which would be garbage at every call
	*e = at
	in.known[at] = e
	return e
}

func (in *inbox) sender(i int) netip.AddrPort {
	b := &in.names[i]
	port := binary.BigEndian.Uint16(b[2:])
	if in.s.six {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
}

// parse reads the control messages: the size of joined datagrams, and the address of ours that they were sent to.
func (in *inbox) parse(b []byte, m *message, at *endpoint) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(h.Len)
		if size < unix.CmsgLen(0) || size > len(b) {
			return
		}
		data := b[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			m.each = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			at.ifidx, at.from = int32(binary.NativeEndian.Uint32(data)), netip.AddrFrom4([4]byte(data[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			at.from, at.ifidx = netip.AddrFrom16([16]byte(data[:16])), int32(binary.NativeEndian.Uint32(data[16:]))
		}
		b = b[min(len(b), unix.CmsgSpace(size-unix.CmsgLen(0))):]
	}
}
