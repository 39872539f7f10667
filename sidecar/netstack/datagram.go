package netstack

import (
	"bytes"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// datagram is a connected UDP socket through the tunnel.
type datagram struct{ socket }

var _ net.Conn = (*datagram)(nil)

func newDatagram(ep tcpip.Endpoint, wq *waiter.Queue, local, remote netip.AddrPort) *datagram {
	return &datagram{socket{ep: ep, wq: wq, network: "udp", local: local, remote: remote, closed: make(chan struct{})}}
}

// Read returns one datagram, truncated to b. A peer's port unreachable makes it fail with ECONNREFUSED once.
func (c *datagram) Read(b []byte) (int, error) {
	var n int
	w := writers.Get().(*tcpip.SliceWriter)
	defer putWriter(w)
	err := c.until("read", waiter.ReadableEvents, &c.readBy, func() tcpip.Error {
		*w = b
		res, err := c.ep.Read(w, tcpip.ReadOptions{})
		n = res.Count
		if _, truncated := err.(*tcpip.ErrBadBuffer); truncated { // gVisor's name for "b has no room at all"
			err = nil
		}
		return err
	})
	return n, err
}

// Write sends one datagram.
func (c *datagram) Write(b []byte) (int, error) {
	r := readers.Get().(*bytes.Reader)
	defer putReader(r)
	err := c.until("write", waiter.WritableEvents, &c.writeBy, func() tcpip.Error {
		r.Reset(b)
		_, err := c.ep.Write(r, tcpip.WriteOptions{})
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close frees the socket.
func (c *datagram) Close() error {
	c.shut(c.ep.Close)
	return nil
}
