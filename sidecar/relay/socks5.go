package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// SOCKS5 as RFC 1928 has it, without authentication: the listener is on the pod's own loopback.
const (
	socksVersion = 5

	socksNoAuth       = 0x00
	socksNoAcceptable = 0xff

	socksConnect      = 1
	socksUDPAssociate = 3

	socksIPv4   = 1
	socksDomain = 3
	socksIPv6   = 4
)

// Reply codes of RFC 1928, section 6.
const (
	socksOK               byte = 0
	socksFailure          byte = 1
	socksNotAllowed       byte = 2
	socksNetUnreachable   byte = 3
	socksHostUnreachable  byte = 4
	socksRefused          byte = 5
	socksBadCommand       byte = 7
	socksBadAddressFormat byte = 8
)

var (
	errSOCKSVersion = errors.New("not SOCKS version 5")
	errSOCKSAddress = errors.New("unknown address type")
)

// socksCode is the reply for a reason.
func socksCode(why Reason) byte {
	switch why {
	case None:
		return socksOK
	case NotAllowed:
		return socksNotAllowed
	case UnknownName, NameNotFound, NoTargets, Timeout:
		return socksHostUnreachable
	case Unreachable:
		return socksNetUnreachable
	case Refused:
		return socksRefused
	}
	return socksFailure
}

// readSOCKSGreeting reads the client's methods; ok says that it offers ours.
func readSOCKSGreeting(r io.Reader) (ok bool, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, fmt.Errorf("read greeting: %w", err)
	}
	if head[0] != socksVersion {
		return false, errSOCKSVersion
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return false, fmt.Errorf("read methods: %w", err)
	}
	for _, m := range methods {
		if m == socksNoAuth {
			return true, nil
		}
	}
	return false, nil
}

// readSOCKSRequest reads the command and its destination. Port 0 and unspecified addresses are legal here: UDP ASSOCIATE
// uses them.
func readSOCKSRequest(r io.Reader) (command byte, d destination, err error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, d, fmt.Errorf("read request: %w", err)
	}
	if head[0] != socksVersion || head[2] != 0 {
		return 0, d, errSOCKSVersion
	}
	d, err = readSOCKSAddress(r)
	return head[1], d, err
}

// readSOCKSAddress reads type, address and port; it consumes all three even when it then finds them malformed.
func readSOCKSAddress(r io.Reader) (destination, error) {
	var buf [1 + 255 + 2]byte
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return destination{}, fmt.Errorf("read address type: %w", err)
	}
	var size int
	switch buf[0] {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksDomain:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return destination{}, fmt.Errorf("read name: %w", err)
		}
		size = int(n[0])
	default:
		return destination{}, errSOCKSAddress
	}
	raw := buf[1 : 1+size+2]
	if _, err := io.ReadFull(r, raw); err != nil {
		return destination{}, fmt.Errorf("read address: %w", err)
	}
	port := binary.BigEndian.Uint16(raw[size:])
	if buf[0] == socksDomain {
		return parseHost(string(raw[:size]), port)
	}
	a, _ := netip.AddrFromSlice(raw[:size])
	return destination{addr: a.Unmap(), port: port}, nil
}

// appendSOCKSAddress is the inverse for an address.
func appendSOCKSAddress(b []byte, at netip.AddrPort) []byte {
	a := at.Addr().Unmap()
	switch {
	case a.Is4():
		b = append(b, socksIPv4)
	case a.Is6():
		b = append(b, socksIPv6)
	default: // not set: the protocol has no word for "none"
		b, a = append(b, socksIPv4), netip.IPv4Unspecified()
	}
	b = append(b, a.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, at.Port())
}

func writeSOCKSReply(w io.Writer, code byte, bound netip.AddrPort) error {
	_, err := w.Write(appendSOCKSAddress([]byte{socksVersion, code, 0}, bound))
	return err
}

// serveSOCKS5 answers one client.
func (r *Relay) serveSOCKS5(ctx context.Context, c localStream, m *meter) {
	end := r.handshake(ctx, c)
	command, d, code, err := socksOpening(c)
	if err != nil {
		if code != socksOK {
			_ = writeSOCKSReply(c, code, netip.AddrPort{})
		}
		end()
		r.failed(m, Malformed, "error", err)
		closeAfterReply(c)
		return
	}
	if !end() {
		return
	}
	switch command {
	case socksConnect:
		r.socksConnect(ctx, c, d, m)
	case socksUDPAssociate:
		r.socksAssociate(ctx, c, d)
	default:
		_ = writeSOCKSReply(c, socksBadCommand, netip.AddrPort{})
		r.failed(m, Malformed, "error", "command not supported")
		closeAfterReply(c)
	}
}

// socksOpening reads greeting and request. With an error, code is the reply to give, if any.
func socksOpening(c io.ReadWriter) (command byte, d destination, code byte, err error) {
	ok, err := readSOCKSGreeting(c)
	if err != nil {
		return 0, d, socksOK, err
	}
	if !ok {
		_, _ = c.Write([]byte{socksVersion, socksNoAcceptable})
		return 0, d, socksOK, errors.New("client asks for authentication")
	}
	if _, err := c.Write([]byte{socksVersion, socksNoAuth}); err != nil {
		return 0, d, socksOK, err
	}
	command, d, err = readSOCKSRequest(c)
	switch {
	case errors.Is(err, errSOCKSAddress):
		code = socksBadAddressFormat
	case errors.Is(err, errDestination):
		code = socksFailure
	}
	return command, d, code, err
}

func (r *Relay) socksConnect(ctx context.Context, c localStream, d destination, m *meter) {
	s, target, why := r.connectTo(ctx, d)
	if why != None {
		_ = writeSOCKSReply(c, socksCode(why), netip.AddrPort{})
		r.failed(m, why, "to", d.String())
		closeAfterReply(c)
		return
	}
	defer r.balancer.end(target)
	if err := writeSOCKSReply(c, socksOK, addrPortOf(s.LocalAddr())); err != nil {
		c.Abort()
		s.Abort()
		m.fail(ResetByLocal)
		return
	}
	r.carry(ctx, c, s, nil, m)
}

func addrPortOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}
