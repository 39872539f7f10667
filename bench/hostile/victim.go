package hostile

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	echoPort = 80
	sinkPort = 81
	bulkPort = 82 // the others' sink
)

// server is the member's application.
type server struct {
	echo, sink, bulk netip.AddrPort
	came, others     atomic.Int64 // bytes into the victim's sink, and into the others'
}

func serve() (*server, error) {
	s := &server{}
	echo, err1 := net.Listen("tcp", "127.0.0.1:0")
	sink, err2 := net.Listen("tcp", "127.0.0.1:0")
	bulk, err3 := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	at := func(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }
	s.echo, s.sink, s.bulk = at(echo), at(sink), at(bulk)
	go each(echo, func(c net.Conn) { _, _ = io.Copy(c, c) })
	go each(sink, func(c net.Conn) { _, _ = io.Copy(counter{&s.came}, c) })
	go each(bulk, func(c net.Conn) { _, _ = io.Copy(counter{&s.others}, c) })
	return s, nil
}

// counter counts what is written.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

func each(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			f(c)
		}()
	}
}

// figures are what the victim got.
type figures struct {
	mbits   float64
	millis  []float64         // of each request
	failed  float64           // percent of the requests
	bulk    float64           // Mbit/s that others got meanwhile
	dropped map[string]uint64 // by the gateway
	lost    map[string]uint64 // by the member
}

// measure has the victim send its stream, and then ask.
func (l *lab) measure(ctx context.Context) (figures, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*l.o.Time+10*time.Second)
	defer cancel()
	var f figures
	before, err := l.asMember()
	if err != nil {
		return f, err
	}
	l.stream(ctx)
	after, err := l.asMember()
	if err != nil {
		return f, err
	}
	rate := func(bytes int64) float64 { return float64(bytes) * 8 / l.o.Time.Seconds() / 1e6 }
	f.mbits, f.bulk = rate(after.Came-before.Came), rate(after.Bulk-before.Bulk)
	failed := 0
	for begin := time.Now(); time.Since(begin) < l.o.Time; {
		asked := time.Now()
		if l.request(ctx) != nil {
			failed++
		}
		f.millis = append(f.millis, float64(time.Since(asked))/float64(time.Millisecond))
	}
	f.failed = 100 * float64(failed) / float64(max(1, len(f.millis)))
	return f, ctx.Err()
}

// patience is how long the victim waits for anything.
const patience = 2 * time.Second

// stream sends at the rate, as far as it gets through. What fails counts for nothing that came.
func (l *lab) stream(ctx context.Context) {
	begin := time.Now()
	deadline := begin.Add(l.o.Time)
	dial, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	c, err := l.victim.DialTCP(dial, netip.AddrPortFrom(member, sinkPort))
	if err != nil {
		time.Sleep(time.Until(deadline))
		return
	}
	defer c.Abort()
	_ = c.SetDeadline(deadline)
	const step = 5 * time.Millisecond
	chunk := make([]byte, l.o.Stream/8*int64(step)/int64(time.Second))
	for due := begin; time.Now().Before(deadline); due = due.Add(step) {
		time.Sleep(time.Until(due))
		if _, err := c.Write(chunk); err != nil {
			time.Sleep(time.Until(deadline))
			return
		}
	}
}

// request connects, asks and closes.
func (l *lab) request(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := l.victim.DialTCP(ctx, netip.AddrPortFrom(member, echoPort))
	if err != nil {
		return err
	}
	defer c.Abort()
	_ = c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 100)
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b)
	return err
}

// datagram is a UDP packet to the discard port.
func datagram(from, to netip.Addr, size int) []byte {
	b := make([]byte, size)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	src, dst := from.As4(), to.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[20:], 9)
	binary.BigEndian.PutUint16(b[22:], 9)
	binary.BigEndian.PutUint16(b[24:], uint16(size-20))
	return b
}
