package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Requests is how long each of many took, in milliseconds, and what failed.
type Requests struct {
	Took      time.Duration
	Millis    []float64
	Errors    int
	FirstFail string
	Costs     []Cost
	Rates     []float64 // cycles a second in each tenth of the run
}

// RunRequests asks one thing after the other on one connection.
func RunRequests(ctx context.Context, t Target) (Requests, error) {
	c, err := t.dial(ctx, wantEcho, newRun(), 0)
	if err != nil {
		return Requests{}, err
	}
	defer c.Close()
	var out Requests
	b := make([]byte, RequestSize)
	begin := time.Now()
	end := begin.Add(t.Warm + t.Time)
	for now := begin; now.Before(end); now = time.Now() {
		_ = c.SetDeadline(now.Add(patience))
		if err := request(c, b); err != nil {
			return out, fmt.Errorf("request %d: %w", len(out.Millis), err)
		}
		if now.Sub(begin) >= t.Warm {
			out.Millis = append(out.Millis, millis(time.Since(now)))
		}
		if err := sleep(ctx, 200*time.Microsecond); err != nil { // a user's pace, not a flood: nobody else waits for a CPU because of us
			return out, err
		}
	}
	out.Took = t.Time
	return out, nil
}

// tenths are the windows that a run of cycles is cut into, to see whether it slows down.
const tenths = 10

// RunConnections opens a connection, asks one thing and closes, again and again, several at a time: for t.Time, or, if cycles
// is not 0, that many times. The client closes first.
func RunConnections(ctx context.Context, t Target, at, cycles int) (Requests, error) {
	if err := sleep(ctx, 0); err != nil {
		return Requests{}, err
	}
	for _, pid := range t.Watch {
		forgetPeak(pid)
	}
	before, begin := readCosts(t.Watch), time.Now()
	w := &cycler{t: t, cycles: cycles, end: begin.Add(t.Time)}
	var all sync.WaitGroup
	for range at {
		all.Go(func() { w.work(ctx) })
	}
	all.Wait()
	out := w.out
	out.Took = time.Since(begin)
	out.Costs = readCosts(t.Watch)
	for i := range out.Costs {
		out.Costs[i].CPU -= before[i].CPU
	}
	out.Rates = rates(begin, out.Took, w.finished)
	return out, ctx.Err()
}

type cycler struct {
	t      Target
	cycles int // 0: until end
	end    time.Time

	mu       sync.Mutex
	begun    int
	finished []time.Time
	out      Requests
}

// next says whether another cycle is due. A run of failures ends it: a dead contender need not be asked a million times.
func (w *cycler) next() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out.Errors > 1000 && w.out.Errors > len(w.finished) {
		return false
	}
	w.begun++
	if w.cycles > 0 {
		return w.begun <= w.cycles
	}
	return time.Now().Before(w.end)
}

func (w *cycler) work(ctx context.Context) {
	b := make([]byte, headerSize+RequestSize)
	for ctx.Err() == nil && w.next() {
		start := time.Now()
		err := w.cycle(ctx, b)
		took := time.Since(start)
		w.mu.Lock()
		if err != nil {
			w.out.Errors++
			w.out.FirstFail = err.Error()
		} else {
			w.out.Millis = append(w.out.Millis, millis(took))
			w.finished = append(w.finished, start.Add(took))
		}
		w.mu.Unlock()
	}
}

func (w *cycler) cycle(ctx context.Context, b []byte) error {
	c, err := connect(ctx, w.t.Addr, patience/4)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience / 4))
	if _, err := c.Write(append(header(wantEcho, 0, 0), b[headerSize:]...)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b[headerSize:])
	return err
}

// rates are the cycles a second in each tenth.
func rates(begin time.Time, took time.Duration, finished []time.Time) []float64 {
	out := make([]float64, tenths)
	for _, at := range finished {
		i := int(float64(at.Sub(begin)) / float64(took) * tenths)
		out[min(max(i, 0), tenths-1)]++
	}
	for i := range out {
		out[i] /= took.Seconds() / tenths
	}
	return out
}

// Decay is the rate of the last tenth as a part of the first's; 0 when nothing went at first.
func (r Requests) Decay() float64 {
	if len(r.Rates) == 0 || r.Rates[0] == 0 {
		return 0
	}
	return r.Rates[len(r.Rates)-1] / r.Rates[0]
}

// Hold opens connections, asks one thing on each, and leaves them open until held returns. Stalled, it asks for a download, and reads
// nothing of it.
func Hold(ctx context.Context, t Target, n int, stalled bool, held func() error) error {
	var open []io.Closer
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	want := byte(wantEcho)
	if stalled {
		want = wantSource
	}
	for i := range n {
		c, err := t.dial(ctx, want, 0, uint32(i))
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		open = append(open, c)
		if stalled {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if err := request(c, make([]byte, RequestSize)); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	if held == nil {
		return errors.New("nobody waits")
	}
	return held()
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
