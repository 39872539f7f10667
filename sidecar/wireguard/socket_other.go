//go:build !linux

package wireguard

import (
	"net"
	"net/netip"
	"syscall"
)

// socket is one address family's UDP socket, by the standard library's means: datagram by datagram.
type socket struct{ conn *net.UDPConn }

func prepare(string, syscall.RawConn, uint32) error { return nil }

func newSocket(conn *net.UDPConn, _ bool) (*socket, error) { return &socket{conn}, nil }

func (s *socket) send(to *endpoint, packets [][]byte) (tooLong bool, err error) {
	for _, p := range packets {
		if _, err := s.conn.WriteToUDPAddrPort(p, to.to); err != nil {
			return false, err
		}
	}
	return false, nil
}

// sendWhole leaves it to the system whether packets are cut.
func (s *socket) sendWhole(to *endpoint, packet [][]byte) error { return s.sendInFragments(to, packet) }

func (s *socket) sendInFragments(to *endpoint, packets [][]byte) error {
	_, err := s.send(to, packets)
	return err
}

// inbox reads a socket, on one goroutine.
type inbox struct {
	s    *socket
	room [64 << 10]byte
	out  [1]message
}

// lost is never known.
func (in *inbox) lost(instant) uint32 { return 0 }

func (in *inbox) filled() float64 { return 0 }

type sieved struct {
	index uint32
	part  float64
}

func (s *socket) sieve([]sieved) error { return nil }

func (s *socket) newInbox() *inbox { return &inbox{s: s} }

// read waits for a message. It is valid until the next read.
func (in *inbox) read() ([]message, error) {
	n, from, err := in.s.conn.ReadFromUDPAddrPort(in.room[:])
	if err != nil {
		return nil, err
	}
	to := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	in.out[0] = message{data: in.room[:n], from: &endpoint{to: to}}
	return in.out[:], nil
}
