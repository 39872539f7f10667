package wireguard

import (
	"errors"

	"golang.org/x/sys/unix"
)

// A system sends what is longer than the path's MTU in fragments, as far as it knows that MTU: from ICMP, which may be lost or forged.
// Two kinds of messages need another way: probes, which must not be cut and must go whatever the system believes, and packets of which we
// know better that the path does not take them. It is a setting of the socket, so nothing else is sent meanwhile.

// sendWhole sends one packet that nobody may cut. It does not wait for room.
func (s *socket) sendWhole(to *endpoint, packet [][]byte) error {
	return s.with(s.discover(), unix.IP_PMTUDISC_PROBE, s.usual, func() error {
		o := s.fill(to, packet)
		defer s.outs.Put(o)
		return o.result(s.raw.Control(o.now))
	})
}

// sendInFragments sends packets that make one message, and are longer than the path takes: routers may cut those of IPv4, and the system
// cuts those of IPv6 into what every path takes.
func (s *socket) sendInFragments(to *endpoint, packets [][]byte) error {
	send := func() error { _, err := s.inParts(to, packets); return err }
	if s.six {
		const everyPath = 1280
		return s.with(unix.IPV6_MTU, everyPath, 0, send)
	}
	return s.with(unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT, s.usual, send)
}

// with does something while an option of the socket's family has another value than usually.
func (s *socket) with(option, value, usual int, do func() error) error {
	s.mode.Lock()
	defer s.mode.Unlock()
	if err := s.set(option, value); err != nil {
		return err
	}
	return errors.Join(do(), s.set(option, usual))
}

func (s *socket) set(option, value int) (failed error) {
	err := s.raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), s.level(), option, value) })
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
