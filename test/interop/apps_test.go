package interop

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// serveTCP listens in the namespace and hands every connection to f; "127.0.0.1:0" and the like work too.
func (h *host) serveTCP(t *testing.T, at string, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	var l net.Listener
	var err error
	h.do(func() { l, err = net.Listen("tcp", at) })
	must(t, "listen", err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// echoTCP answers what it reads and passes the end on.
func echoTCP(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// serveUDP echoes datagrams.
func (h *host) serveUDP(t *testing.T, at string) netip.AddrPort {
	t.Helper()
	var c net.PacketConn
	var err error
	h.do(func() { c, err = net.ListenPacket("udp", at) })
	must(t, "listen", err)
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err == nil {
				_, _ = c.WriteTo(b[:n], from)
			} else if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// speak sends a message over a stream, ends its own half and wants the same back, to the end.
func speak(c net.Conn, message []byte) error {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(message); err != nil {
		return err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	back, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(back, message) {
		err = fmt.Errorf("%d bytes came back, not the %d sent", len(back), len(message))
	}
	return err
}

// echoesTCP checks one connection to an echo server.
func (h *host) echoesTCP(to string) error {
	c, err := h.dial("tcp", to)
	if err != nil {
		return err
	}
	return speak(c, bytes.Repeat([]byte("tenant wire "), 5000))
}

// echoesUDP sends datagrams of the given sizes until each has come back whole.
func (h *host) echoesUDP(to string, sizes ...int) error {
	c, err := h.dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, size := range sizes {
		if err := exchange(c, bytes.Repeat([]byte{byte(size)}, size)); err != nil {
			return fmt.Errorf("%d bytes: %w", size, err)
		}
	}
	return nil
}

// exchange sends a datagram until it comes back: the network may lose some.
func exchange(c net.Conn, message []byte) (err error) {
	b := make([]byte, 1<<16)
	for try := range 8 {
		if _, err = c.Write(message); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond << try))
		var n int
		if n, err = c.Read(b); err == nil {
			if !bytes.Equal(b[:n], message) {
				return fmt.Errorf("%d other bytes came back", n)
			}
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}

// socks asks the SOCKS5 proxy for a connection; code is the proxy's reply.
func (h *host) socks(to netip.AddrPort) (c net.Conn, code byte, err error) {
	if c, err = h.dial("tcp", socksAt); err != nil {
		return nil, 0, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	request := []byte{5, 1, 0, 5, 1, 0, 1}
	if to.Addr().Is6() {
		request[6] = 4
	}
	request = append(request, to.Addr().AsSlice()...)
	request = binary.BigEndian.AppendUint16(request, to.Port())
	if _, err = c.Write(request); err != nil {
		return nil, 0, err
	}
	reply := make([]byte, 2+4)
	if _, err = io.ReadFull(c, reply); err != nil {
		return nil, 0, err
	}
	rest := 4 + 2
	if reply[5] == 4 {
		rest = 16 + 2
	}
	if _, err = io.ReadFull(c, make([]byte, rest)); err != nil {
		return nil, 0, err
	}
	return c, reply[3], nil
}

// httpConnect asks the HTTP proxy for a connection; code is the proxy's status.
func (h *host) httpConnect(to netip.AddrPort) (c net.Conn, code int, err error) {
	if c, err = h.dial("tcp", connectAt); err != nil {
		return nil, 0, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to); err != nil {
		return nil, 0, err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK && r.Buffered() > 0 {
		return nil, 0, errors.New("the proxy sent bytes before the far end could")
	}
	return c, res.StatusCode, nil
}

// sequence is a transfer of numbered records, so that a lost, doubled or foreign byte is seen where it happens.
type sequence struct {
	seen atomic.Int64  // records received in order
	stop chan struct{} // close to end the transfer
	done chan error    // what the writer found: nil when the reader confirmed every record
	bad  chan error    // what the reader found, if anything
}

// pace lets a numbered transfer run at a few MiB/s: it must live long, not be fast.
const pace = 2 * time.Millisecond

func newSequence() *sequence {
	return &sequence{stop: make(chan struct{}), done: make(chan error, 1), bad: make(chan error, 1)}
}

// receive checks the records and answers their number at the end.
func (s *sequence) receive(c *net.TCPConn) {
	b := make([]byte, 1024)
	for n := int64(0); ; n++ {
		_, err := io.ReadFull(c, b)
		if errors.Is(err, io.EOF) {
			_, _ = c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
			return
		}
		if err == nil && int64(binary.BigEndian.Uint64(b)) != n {
			err = fmt.Errorf("record %d where %d was due", binary.BigEndian.Uint64(b), n)
		}
		if err != nil {
			s.bad <- err
			return
		}
		s.seen.Store(n + 1)
	}
}

// send writes records until told to stop, ends its half and wants the number of them confirmed.
func (s *sequence) send(c net.Conn) {
	defer c.Close()
	s.done <- func() error {
		b, n := make([]byte, 1024), uint64(0)
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return s.confirm(c, n)
			case <-tick.C:
			}
			for range 8 {
				binary.BigEndian.PutUint64(b, n)
				if _, err := c.Write(b); err != nil {
					return fmt.Errorf("after %d records: %w", n, err)
				}
				n++
			}
		}
	}()
}

func (s *sequence) confirm(c net.Conn, n uint64) error {
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	if err == nil && (len(b) != 8 || binary.BigEndian.Uint64(b) != n) {
		err = fmt.Errorf("%d records sent, the receiver confirms %x", n, b)
	}
	return err
}

// advances waits until the transfer has moved on by more than what can have been under way.
func (s *sequence) advances(t *testing.T, after string) {
	t.Helper()
	const records = 2000
	from := s.seen.Load()
	eventually(t, "the transfer goes on after "+after, func() error {
		select {
		case err := <-s.bad:
			t.Fatal("receiver:", err)
		case err := <-s.done:
			t.Fatal("sender:", err)
		default:
		}
		if n := s.seen.Load() - from; n < records {
			return fmt.Errorf("%d records came", n)
		}
		return nil
	})
}

// finish ends the transfer and wants every record to have arrived.
func (s *sequence) finish(t *testing.T) {
	t.Helper()
	close(s.stop)
	select {
	case err := <-s.done:
		must(t, "transfer", err)
	case <-time.After(2 * patience):
		t.Fatal("the transfer does not end")
	}
}
