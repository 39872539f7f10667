package wireguard

import (
	"errors"

	"golang.org/x/sys/unix"
)

// A system sends what is longer than the path's MTU in fragments, as far as it knows that MTU: from ICMP, which may be lost or forged.
// Two kinds of messages need another way: probes, which must not be cut and must go whatever the system believes, and packets of which we
// know better that the path does not take them. It is a setting of the socket, so nothing else is sent meanwhile.

// sendWhole sends one packet that nobody may cut.
func (s *socket) sendWhole(to *endpoint, packet [][]byte) error {
	return s.with(unix.IP_PMTUDISC_PROBE, func() error { return s.sendMessage(to, packet) })
}

// sendInFragments sends packets that make one message, and are longer than the path takes. Routers may cut them; where they are IPv6's none
// does, and it is up to what the system knows.
func (s *socket) sendInFragments(to *endpoint, packets [][]byte) error {
	if s.six {
		_, err := s.send(to, packets)
		return err
	}
	return s.with(unix.IP_PMTUDISC_DONT, func() error { _, err := s.inParts(to, packets); return err })
}

// with does something while packets that are too long are treated otherwise than usually.
func (s *socket) with(discover int, do func() error) error {
	s.mode.Lock()
	defer s.mode.Unlock()
	if err := s.set(discover); err != nil {
		return err
	}
	return errors.Join(do(), s.set(s.usual))
}

func (s *socket) set(discover int) (failed error) {
	err := s.raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), s.level(), s.discover(), discover) })
	return errors.Join(err, failed)
}

func (s *socket) level() int {
	if s.six {
		return unix.IPPROTO_IPV6
	}
	return unix.IPPROTO_IP
}

// discover is the option that says what becomes of packets that are too long.
func (s *socket) discover() int {
	if s.six {
		return unix.IPV6_MTU_DISCOVER
	}
	return unix.IP_MTU_DISCOVER
}
