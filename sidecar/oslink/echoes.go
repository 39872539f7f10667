//go:build linux

package oslink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Echoes asks for many ICMP echoes at a time, by a socket of each family that is made once. All methods are safe for concurrent use.
type Echoes struct {
	index int                   // of the interface
	conns map[bool]*net.UDPConn // by whether they are IPv4; at least one
	read  sync.WaitGroup
}

// OpenEchoes makes the sockets, of the families that there are. answered is called on other goroutines with what came back, until Close: from
// whom, the request's number, and what followed its header. It must not keep that.
func (l *Link) OpenEchoes(answered func(from netip.Addr, number uint16, data []byte)) (*Echoes, error) {
	e := &Echoes{index: l.link.Attrs().Index, conns: make(map[bool]*net.UDPConn)}
	var errs []error
	for _, four := range []bool{true, false} {
		c, err := l.echoSocket(four)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e.conns[four] = c.(*net.UDPConn)
	}
	if len(e.conns) == 0 {
		return nil, fmt.Errorf("open sockets for echo requests: %w", errors.Join(errs...))
	}
	for _, c := range e.conns {
		e.read.Go(func() { receiveEchoes(c, answered) })
	}
	return e, nil
}

func (l *Link) echoSocket(four bool) (net.Conn, error) {
	fd, err := l.newEchoSocket(four)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "echoes")
	defer f.Close() // FileConn has its own
	return net.FileConn(f)
}

// Ask sends a request with that data behind its header of 8 bytes. What is too long for the interface is refused, not cut.
func (e *Echoes) Ask(from, to netip.Addr, number uint16, data []byte) error {
	c := e.conns[to.Is4()]
	if c == nil {
		return fmt.Errorf("ask %s for an echo: %w", to, unix.EAFNOSUPPORT)
	}
	kind, header := byte(echoRequest6), (&ipv6.ControlMessage{Src: from.AsSlice(), IfIndex: e.index}).Marshal()
	if to.Is4() {
		kind, header = echoRequest4, (&ipv4.ControlMessage{Src: from.AsSlice(), IfIndex: e.index}).Marshal()
	}
	request := make([]byte, 8+len(data)) // the kernel fills in identifier and checksum
	request[0] = kind
	binary.BigEndian.PutUint16(request[6:], number)
	copy(request[8:], data)
	if _, _, err := c.WriteMsgUDPAddrPort(request, header, netip.AddrPortFrom(to, 0)); err != nil {
		return fmt.Errorf("ask %s for an echo: %w", to, err)
	}
	return nil
}

func receiveEchoes(c *net.UDPConn, answered func(netip.Addr, uint16, []byte)) {
	b := make([]byte, datapath.MaxMTU)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil && n >= 8: // other errors are of what was sent
			answered(from.Addr().Unmap().WithZone(""), binary.BigEndian.Uint16(b[6:]), b[8:n])
		}
	}
}

// Close closes the sockets, and waits until answered has returned for the last time.
func (e *Echoes) Close() {
	for _, c := range e.conns {
		_ = c.Close()
	}
	e.read.Wait()
}
