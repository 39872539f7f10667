package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Streams is what TCP streams carried within the window.
type Streams struct {
	Took      time.Duration
	Up, Down  []float64 // bytes of each stream
	Costs     []Cost
	Broken    int // streams that ended before their time
	FirstFail string
}

// Bytes is the sum over all streams.
func (s Streams) Bytes() (n float64) {
	for _, v := range append(append([]float64(nil), s.Up...), s.Down...) {
		n += v
	}
	return n
}

// Mbits is the rate of the sum.
func (s Streams) Mbits() float64 { return s.Bytes() * 8 / 1e6 / s.Took.Seconds() }

// flow is one stream as the client sees it.
type flow struct {
	conn  net.Conn
	bytes atomic.Int64 // downloads: received
	err   error        // set before done is counted down
}

// RunStreams runs streams of a direction: up, down, or both (that many each way).
func RunStreams(ctx context.Context, t Target, streams int, way string) (Streams, error) {
	run := newRun()
	var ups, downs []*flow
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	open := func(want byte, list *[]*flow, carry func(*flow)) error {
		for i := range streams {
			c, err := t.dial(ctx, want, run, uint32(i))
			if err != nil {
				return fmt.Errorf("open stream %d: %w", i, err)
			}
			f := &flow{conn: c}
			*list = append(*list, f)
			all.Go(func() { carry(f) })
			context.AfterFunc(ctx, func() { _ = c.Close() })
		}
		return nil
	}
	if way != "down" {
		if err := open(wantSink, &ups, (*flow).send); err != nil {
			return Streams{}, err
		}
	}
	if way != "up" {
		if err := open(wantSource, &downs, (*flow).receive); err != nil {
			return Streams{}, err
		}
	}
	var out Streams
	m := meter{t: t, run: run, streams: streams, ups: len(ups) > 0, downs: downs}
	var err error
	if out.Took, out.Costs, err = t.window(ctx, func() error { return m.mark(ctx) }); err != nil {
		return out, err
	}
	out.Up, out.Down = m.between()
	cancel()
	all.Wait()
	for _, f := range append(ups, downs...) {
		if f.err != nil {
			out.Broken++
			out.FirstFail = f.err.Error()
		}
	}
	return out, nil
}

func (f *flow) send() {
	for b := make([]byte, chunk/2); ; {
		if _, err := f.conn.Write(b); err != nil {
			f.end(err)
			return
		}
	}
}

func (f *flow) receive() {
	for b := make([]byte, chunk); ; {
		n, err := f.conn.Read(b)
		f.bytes.Add(int64(n))
		if err != nil {
			f.end(err)
			return
		}
	}
}

// end notes an error unless it is our own closing at the end of the window.
func (f *flow) end(err error) {
	if !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "use of closed") {
		f.err = err
	}
	_ = f.conn.Close()
}

// meter reads all counters at both edges of the window.
type meter struct {
	t          Target
	run        uint32
	streams    int
	ups        bool
	downs      []*flow
	upAt, down [][]float64
}

func (m *meter) mark(ctx context.Context) error {
	down := make([]float64, len(m.downs))
	for i, f := range m.downs {
		down[i] = float64(f.bytes.Load())
	}
	m.down = append(m.down, down)
	if !m.ups {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	n, err := counters(ctx, m.t.Control, m.run)
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
	}
	up := make([]float64, m.streams) // a stream of which nothing came counts zero, and counts
	for i := range up {
		up[i] = float64(n[uint32(i)])
	}
	m.upAt = append(m.upAt, up)
	return nil
}

func (m *meter) between() (up, down []float64) {
	minus := func(v [][]float64) (out []float64) {
		for i := range v[len(v)-1] {
			out = append(out, v[1][i]-v[0][i])
		}
		return out
	}
	if m.ups {
		up = minus(m.upAt)
	}
	return up, minus(m.down)
}
