package load

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// Datagrams is how many were sent and came within the window.
type Datagrams struct {
	Took       time.Duration
	Sent, Came int64
	Costs      []Cost
}

// overhead is what IPv4 and UDP put before a payload: sizes are those of whole packets, so that 1,400 bytes fit into every tunnel.
const overhead = 28

// RunDatagrams sends packets of a size as fast as the socket takes them and asks the server how many came.
func RunDatagrams(ctx context.Context, t Target, size int) (Datagrams, error) {
	if size < overhead+headerSize {
		return Datagrams{}, fmt.Errorf("a packet of %d bytes has no room for a header", size)
	}
	c, err := net.Dial("udp", t.Addr)
	if err != nil {
		return Datagrams{}, err
	}
	defer c.Close()
	run := newRun()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sent counter
	done := make(chan struct{})
	go func() {
		defer close(done)
		sent.flood(ctx, c, append(header(wantSink, run, 0), make([]byte, size-overhead-headerSize)...))
	}()
	var marks, came []int64
	out := Datagrams{}
	out.Took, out.Costs, err = t.window(ctx, func() error {
		marks = append(marks, sent.n.Load())
		n, err := counters(ctx, t.Control, run)
		came = append(came, n[0])
		return err
	})
	cancel()
	<-done
	if err != nil {
		return out, err
	}
	out.Sent, out.Came = marks[1]-marks[0], came[1]-came[0]
	return out, nil
}

type counter struct{ n atomic.Int64 }

// flood sends until the context ends. An error (no buffer space, nobody there yet) costs a pause and nothing else.
func (s *counter) flood(ctx context.Context, c net.Conn, b []byte) {
	for ctx.Err() == nil {
		for range 64 { // asking the context is dearer than sending
			if _, err := c.Write(b); err != nil {
				time.Sleep(50 * time.Microsecond)
				continue
			}
			s.n.Add(1)
		}
	}
}
