package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Dial connects to the door.
type Dial func(ctx context.Context) (datapath.Stream, error)

const (
	pause    = time.Millisecond // between two round trips
	maxTrips = 100_000          // of a phase
	// drain is how long what was sent may take to arrive once a phase is over.
	drain = 10 * time.Second
)

// run is one measurement.
type run struct {
	dial   Dial
	token  string
	length time.Duration // of a phase
	most   int64         // bytes of a phase
	left   atomic.Int64  // of them, those that may still be sent
}

// Run measures as it is asked to, which must be valid, and tells how far it is. It ends with the first phase that fails, or with ctx.
func Run(ctx context.Context, ask wire.BenchRun, dial Dial, tell func(wire.BenchEvent) error) error {
	r := &run{dial: dial, token: ask.Token, length: time.Duration(ask.Seconds) * time.Second, most: ask.MaxBytes}
	phases := []wire.BenchPhase{{Name: wire.BenchIdle}, {Name: wire.BenchUp, Streams: 1}, {Name: wire.BenchDown, Streams: 1}}
	if ask.Streams > 1 {
		phases = append(phases, wire.BenchPhase{Name: wire.BenchUp, Streams: ask.Streams}, wire.BenchPhase{Name: wire.BenchDown, Streams: ask.Streams})
	}
	for _, p := range phases {
		begins := p.Name
		if p.Streams > 0 {
			begins = fmt.Sprintf("%s, %d streams", p.Name, p.Streams)
		}
		if err := tell(wire.BenchEvent{Begins: begins}); err != nil {
			return err
		}
		if err := r.phase(ctx, &p); err != nil {
			return fmt.Errorf("%s: %w", begins, err)
		}
		if err := tell(wire.BenchEvent{Phase: &p}); err != nil {
			return err
		}
	}
	return nil
}

// phase fills in what it measures: round trips throughout, and beside them the streams.
func (r *run) phase(ctx context.Context, p *wire.BenchPhase) error {
	within, cancel := context.WithTimeout(ctx, r.length+drain)
	defer cancel()
	r.left.Store(r.most)
	begin := time.Now()
	end := begin.Add(r.length)
	var (
		all   sync.WaitGroup
		bytes atomic.Int64
		errs  = make([]error, p.Streams+1)
		trips []time.Duration
		over  = make(chan struct{})
	)
	all.Go(func() { trips, errs[p.Streams] = r.trips(within, end, over) })
	var streams sync.WaitGroup
	for i := range p.Streams {
		streams.Go(func() {
			n, err := r.stream(within, end, p.Name)
			bytes.Add(n)
			errs[i] = err
		})
	}
	streams.Wait()
	p.Seconds = time.Since(begin).Seconds()
	if p.Streams > 0 {
		close(over)
	}
	all.Wait()
	if p.Streams == 0 {
		p.Seconds = time.Since(begin).Seconds()
	}
	p.Bytes = bytes.Load()
	if p.Seconds > 0 {
		p.BitsPerSecond = math.Round(8 * float64(p.Bytes) / p.Seconds)
	}
	p.RoundTrips = len(trips)
	p.P50Micros, p.P99Micros = quantile(trips, 0.50), quantile(trips, 0.99)
	return errors.Join(errs...)
}

// quantile is in microseconds; 0: there are none. It sorts what it is given.
func quantile(trips []time.Duration, q float64) float64 {
	if len(trips) == 0 {
		return 0
	}
	slices.Sort(trips)
	return float64(trips[min(len(trips)-1, int(q*float64(len(trips))))].Nanoseconds()) / 1e3
}

// open connects for one purpose; the connection ends with ctx.
func (r *run) open(ctx context.Context, purpose byte) (s datapath.Stream, closes func(), err error) {
	if s, err = r.dial(ctx); err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	stop := context.AfterFunc(ctx, s.Abort)
	closes = func() { stop(); s.Abort() }
	if _, err = s.Write(append([]byte(r.token), purpose)); err != nil {
		closes()
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	return s, closes, nil
}

// trips measures round trips until the end, or until it is over before.
func (r *run) trips(ctx context.Context, end time.Time, over <-chan struct{}) (out []time.Duration, err error) {
	s, closes, err := r.open(ctx, echo)
	if err != nil {
		return nil, err
	}
	defer closes()
	b := make([]byte, messageSize)
	for len(out) < maxTrips {
		begin := time.Now()
		if begin.After(end) {
			break
		}
		if _, err = s.Write(b); err == nil {
			_, err = io.ReadFull(s, b)
		}
		if err != nil {
			return out, fmt.Errorf("round trip: %w", err)
		}
		out = append(out, time.Since(begin))
		select {
		case <-over:
			return out, nil
		case <-time.After(pause):
		}
	}
	return out, nil
}

// stream carries one way until the end, and returns how many bytes have arrived.
func (r *run) stream(ctx context.Context, end time.Time, way string) (int64, error) {
	purpose := byte(upload)
	if way == wire.BenchDown {
		purpose = download
	}
	s, closes, err := r.open(ctx, purpose)
	if err != nil {
		return 0, err
	}
	defer closes()
	if purpose == download {
		return r.receive(s, end)
	}
	return r.send(s, end)
}

func (r *run) receive(s datapath.Stream, end time.Time) (n int64, err error) {
	_ = s.SetReadDeadline(end)
	for b := make([]byte, chunk); r.left.Load() > 0; {
		m, err := s.Read(b)
		n += int64(m)
		r.left.Add(-int64(m))
		switch {
		case err == nil:
		case time.Now().Before(end):
			return n, fmt.Errorf("receive: %w", err)
		default:
			return n, nil
		}
	}
	return n, nil
}

// send asks the far end how much has arrived, so that what lies in buffers does not count.
func (r *run) send(s datapath.Stream, end time.Time) (int64, error) {
	for b := make([]byte, chunk); time.Now().Before(end) && r.left.Add(-chunk) > 0; {
		if _, err := s.Write(b); err != nil {
			return 0, fmt.Errorf("send: %w", err)
		}
	}
	if err := s.CloseWrite(); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	var n [8]byte
	if _, err := io.ReadFull(s, n[:]); err != nil {
		return 0, fmt.Errorf("send: hear how much has arrived: %w", err)
	}
	return int64(binary.BigEndian.Uint64(n[:])), nil //nolint:gosec // it has counted up to here
}
