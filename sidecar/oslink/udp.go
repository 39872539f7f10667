//go:build linux

package oslink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// waitingDatagrams is how many datagrams of one flow are kept while nobody has answered its first.
const waitingDatagrams = 16

// udpDoor listens for one open port. A flow that is accepted gets a socket of its own on the same port, connected to its peer: the
// kernel prefers it to the listener, and keeps its datagrams within the bound of its buffer.
type udpDoor struct {
	l        *Link
	pc       *net.UDPConn
	from, to uint16

	mu      sync.Mutex
	waiting map[udpFlow]*udpRequest
}

// udpFlow is both ends of a flow.
type udpFlow struct {
	at     netip.Addr
	remote netip.AddrPort
}

func (l *Link) openUDP(from, to uint16) (*udpDoor, error) {
	lc := net.ListenConfig{Control: l.holdUDP}
	pc, err := lc.ListenPacket(l.ctx, "udp", fmt.Sprintf(":%d", to))
	if err != nil {
		return nil, err
	}
	d := &udpDoor{l: l, pc: pc.(*net.UDPConn), from: from, to: addrPort(pc.LocalAddr()).Port(), waiting: make(map[udpFlow]*udpRequest)}
	go d.read()
	return d, nil
}

// holdUDP makes a socket that shares its port with those of its flows and says which of our addresses a datagram was sent to.
func (l *Link) holdUDP(network, address string, c syscall.RawConn) error {
	if err := l.holdListener(network, address, c); err != nil {
		return err
	}
	return control(c, func(fd int) error {
		six := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
		if four := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1); four != nil && six != nil {
			return os.NewSyscallError("setsockopt", four)
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	})
}

// close forgets what waits; its handlers find that at Accept.
func (d *udpDoor) close() {
	_ = d.pc.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for f := range d.waiting {
		d.l.udpSlots.Give(f.remote.Addr())
	}
	d.waiting = nil
}

func (d *udpDoor) read() {
	buf, oob := make([]byte, 65535), make([]byte, 256)
	for {
		n, m, _, from, err := d.pc.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !sleep(d.l.ctx, 20*time.Millisecond) {
				return
			}
			continue
		}
		if at, ok := destinationOf(oob[:m]); ok {
			d.take(udpFlow{at, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}, buf[:n])
		}
	}
}

// take is one datagram that no flow has claimed.
func (d *udpDoor) take(f udpFlow, b []byte) {
	h := d.l.handleUDP.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.waiting[f]
	switch {
	case h == nil || d.waiting == nil:
		return
	case q != nil:
		if len(q.first) < waitingDatagrams {
			q.first = append(q.first, append([]byte{}, b...))
		} else {
			d.l.overLimit.Add(1)
		}
		return
	case !d.l.udpSlots.Take(f.remote.Addr()):
		d.l.overLimit.Add(1)
		return
	}
	q = &udpRequest{d: d, flow: f, first: [][]byte{append([]byte{}, b...)}}
	d.waiting[f] = q
	go (*h)(q)
}

// destinationOf reads which of our addresses a datagram was sent to.
func destinationOf(oob []byte) (netip.Addr, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			return netip.AddrFrom4([4]byte(m.Data[8:12])), true // ipi_ifindex, ipi_spec_dst, ipi_addr
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			return netip.AddrFrom16([16]byte(m.Data[:16])).Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// udpRequest is a flow that nobody has answered. The first of Accept and Refuse answers it.
type udpRequest struct {
	d     *udpDoor
	flow  udpFlow
	first [][]byte // guarded by the door's mutex
}

var _ datapath.UDPRequest = (*udpRequest)(nil)

func (q *udpRequest) Local() netip.AddrPort  { return netip.AddrPortFrom(q.flow.at, q.d.from) }
func (q *udpRequest) Remote() netip.AddrPort { return q.flow.remote }

// Accept makes the flow a socket of its own. It exists before the request is taken from the table, so that no datagram is in between.
func (q *udpRequest) Accept() (net.Conn, error) {
	c, err := q.socket()
	first, ok := q.answer()
	if !ok {
		if err == nil {
			_ = c.Close()
		}
		return nil, fmt.Errorf("accept: %w", errAnswered)
	}
	if err != nil {
		q.giveSlot()
		return nil, fmt.Errorf("accept: %w", err)
	}
	d := newDatagram(q.d.l, c, q.Local())
	d.onClose = q.giveSlot
	if !q.d.l.track(d) {
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	}
	return &flow{Conn: d, d: d, first: first}, nil
}

// Refuse forgets the flow. The peer hears nothing: the kernel took the datagram for answered.
func (q *udpRequest) Refuse() {
	if _, ok := q.answer(); ok {
		q.giveSlot()
	}
}

func (q *udpRequest) answer() (first [][]byte, ok bool) {
	q.d.mu.Lock()
	defer q.d.mu.Unlock()
	if q.d.waiting[q.flow] != q {
		return nil, false
	}
	delete(q.d.waiting, q.flow)
	return q.first, true
}

func (q *udpRequest) giveSlot() { q.d.l.udpSlots.Give(q.flow.remote.Addr()) }

// socket is connected to the flow's peer. Between bind and connect it would get other flows' datagrams: it is deaf until then.
func (q *udpRequest) socket() (*net.UDPConn, error) {
	dialer := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(q.flow.at, q.d.to)),
		Control: func(network, address string, c syscall.RawConn) error {
			if err := q.d.l.holdUDP(network, address, c); err != nil {
				return err
			}
			return control(c, deafen)
		},
	}
	conn, err := dialer.DialContext(context.Background(), "udp", q.flow.remote.String())
	if err != nil {
		return nil, err
	}
	c := conn.(*net.UDPConn)
	raw, err := c.SyscallConn()
	if err == nil {
		err = control(raw, func(fd int) error {
			return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0))
		})
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// deafen lets nothing in.
func deafen(fd int) error {
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	return os.NewSyscallError("setsockopt",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &filter[0]}))
}

// flow is an accepted flow: first what came before it was accepted. It hides that a socket is behind it, from which whoever finds it
// would read past what waits here.
type flow struct {
	net.Conn // the socket
	d        *datagram
	mu       sync.Mutex
	first    [][]byte
}

func (f *flow) Read(b []byte) (int, error) {
	f.mu.Lock()
	if len(f.first) > 0 {
		n := copy(b, f.first[0])
		f.first = f.first[1:]
		f.mu.Unlock()
		return n, nil
	}
	f.mu.Unlock()
	return f.Conn.Read(b)
}

// WaitReadable blocks until Read would not, so that an idle flow needs no buffer.
func (f *flow) WaitReadable() error {
	f.mu.Lock()
	waiting := len(f.first) > 0
	f.mu.Unlock()
	if waiting {
		return nil
	}
	raw, err := f.d.SyscallConn()
	if err != nil {
		return err
	}
	var failed error // asking takes a socket's error away
	err = raw.Read(func(fd uintptr) bool {
		_, _, failed = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("recvfrom", failed)
}
