package load

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Target is where a client sends its traffic.
type Target struct {
	Addr    string        // of the way into the tunnel; socks5://PROXY/HOST:PORT: through a proxy
	Control string        // base URL of the server's counters, beside the tunnel
	Warm    time.Duration // before anything is counted
	Time    time.Duration // in which it is
	Watch   []int         // processes whose cost is taken in the same window
}

// patience bounds what must happen soon, or the contender has failed.
const patience = 20 * time.Second

func (t Target) dial(ctx context.Context, want byte, run, stream uint32) (net.Conn, error) {
	c, err := connect(ctx, t.Addr, patience)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(header(want, run, stream)); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func newRun() uint32 { return rand.Uint32() }

// request sends one and wants its like.
func request(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// First asks one thing on a new connection, within limit: whether the way through is there yet.
func First(ctx context.Context, addr string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := Target{Addr: addr}.dial(ctx, wantEcho, 0, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	return request(c, make([]byte, RequestSize))
}

// window waits for the warm-up, takes the costs, waits for the time, takes them again; at each edge it also calls mark.
func (t Target) window(ctx context.Context, mark func() error) (took time.Duration, costs []Cost, err error) {
	if err := sleep(ctx, t.Warm); err != nil {
		return 0, nil, err
	}
	for _, pid := range t.Watch {
		forgetPeak(pid)
	}
	if err := mark(); err != nil {
		return 0, nil, err
	}
	before, start := readCosts(t.Watch), time.Now()
	if err := sleep(ctx, t.Time); err != nil {
		return 0, nil, err
	}
	took = time.Since(start)
	after := readCosts(t.Watch)
	if err := mark(); err != nil {
		return 0, nil, err
	}
	for i := range after {
		if after[i].Peak == 0 {
			return 0, nil, fmt.Errorf("process %d of the contender has ended", t.Watch[i])
		}
		after[i].CPU -= before[i].CPU
	}
	return took, after, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
