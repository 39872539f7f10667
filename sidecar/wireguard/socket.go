package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
)

// errNoFamily says that the system has no sockets of an address's family.
var errNoFamily = errors.New("no socket of the address's family")

// sockets are an engine's: one for each address family that the system has, all with the same port.
type sockets struct {
	v4, v6 *socket
	port   uint16
	once   sync.Once
}

// tries is how many free ports of one family are tried with the other.
const tries = 100

func (ss *sockets) open(port uint16, mark uint32) (err error) {
	for range tries {
		if err = ss.try(port, mark); err == nil || port != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	return err
}

func (ss *sockets) try(port uint16, mark uint32) (err error) {
	ss.port = port
	if ss.v4, err = openSocket("udp4", &ss.port, mark); err != nil && !missingFamily(err) {
		return err
	}
	if ss.v6, err = openSocket("udp6", &ss.port, mark); err != nil && (!missingFamily(err) || ss.v4 == nil) {
		if ss.v4 != nil {
			_ = ss.v4.conn.Close()
		}
		return err
	}
	return nil
}

// missingFamily says whether the system lacks the address family, or has it switched off.
func missingFamily(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// openSocket binds a socket to the port, which it changes to the one it got if it is zero.
func openSocket(network string, port *uint16, mark uint32) (*socket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return prepare(network, c, mark) }}
	pc, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(*port)))
	if err != nil {
		return nil, err
	}
	conn := pc.(*net.UDPConn)
	*port = conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	return newSocket(conn, network == "udp6")
}

func (ss *sockets) all() (out []*socket) {
	for _, s := range []*socket{ss.v4, ss.v6} {
		if s != nil {
			out = append(out, s)
		}
	}
	return out
}

// of returns the socket of an address's family, or nil.
func (ss *sockets) of(a netip.Addr) *socket {
	if a.Is4() {
		return ss.v4
	}
	return ss.v6
}

// close says whether it was the first to close them.
func (ss *sockets) close() (first bool) {
	ss.once.Do(func() {
		first = true
		for _, s := range ss.all() {
			_ = s.conn.Close()
		}
	})
	return first
}
