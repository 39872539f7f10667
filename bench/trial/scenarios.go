package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/bench/contender"
	"github.com/tenantwire/tenantwire/bench/load"
)

// Quick lists the scenarios of a quick run; All those of the whole.
func Quick() []Scenario {
	return []Scenario{streams("up", 1), streams("down", 1), streams("up", 8), streams("down", 8), requests("rtt-load", 4)}
}

// Limited lists those that are measured again within limits. What repeats within a few percent, or is far from its budget, is in the
// first round alone. partly are contenders of which no more is asked than what a gigabyte costs.
func Limited(partly ...string) []Scenario {
	out := append(Quick(), Scenario{Name: "conns", run: connections})
	for _, s := range []Scenario{{Name: "idle", run: idle}, streams("up", 32), streams("down", 32), {Name: "hold1000", run: hold}} {
		s.Once = true
		out = append(out, s)
	}
	for i := range out {
		if out[i].Name != "up1" {
			out[i].Not = partly
		}
	}
	return out
}

// All lists every scenario.
func All() []Scenario {
	out := []Scenario{{Name: "idle", run: idle}}
	for _, n := range []int{1, 8, 32} {
		out = append(out, streams("up", n), streams("down", n))
	}
	out = append(out, requests("rtt-idle", 0), requests("rtt-load", 4), Scenario{Name: "conns", run: connections},
		datagrams("udp64", 64), datagrams("udp1400", 1400), Scenario{Name: "hold1000", run: hold})
	for _, s := range []Scenario{
		streams("both", 1), streams("both", 8), streams("both", 32),
		{Name: "stall1000", run: stall},
		{Name: "start", run: start},
		{Name: "churn", run: churn},
		{Name: "peers1000", Alone: true, run: crowd},
		impaired("impair-loss", "-loss", "0.01", "-delay", "10ms"),
		impaired("impair-reorder", "-reorder", "0.01", "-late", "3ms", "-delay", "10ms"),
		impaired("impair-far", "-delay", "50ms"),
		impaired("impair-narrow", "-rate", "1e8", "-queue", "65536", "-delay", "5ms"),
	} {
		s.Once = true
		out = append(out, s)
	}
	return out
}

func streams(way string, n int) Scenario {
	return Scenario{Name: way + strconv.Itoa(n), run: func(ctx context.Context, s *stage) error { return s.streams(ctx, way, n) }}
}

func (s *stage) streams(ctx context.Context, way string, n int) error {
	var got load.Streams
	if err := s.load(ctx, "streams", &got, "-way", way, "-n", strconv.Itoa(n)); err != nil {
		return err
	}
	s.add(bench.Throughput, got.Mbits())
	s.costs(got.Costs, got.Bytes())
	if shares := append(append([]float64(nil), got.Up...), got.Down...); n > 1 {
		s.add(bench.Fairness, bench.Jain(shares))
		s.add(bench.SlowFast, bench.Slowest(shares))
	}
	if got.Broken > 0 {
		return fmt.Errorf("%d streams broke: %s", got.Broken, got.FirstFail)
	}
	return nil
}

// impaired is one stream through a bad network; it takes longer to find its rate there.
func impaired(name string, path ...string) Scenario {
	return Scenario{Name: name, Impair: path, run: func(ctx context.Context, s *stage) error {
		var got load.Streams
		if err := s.loadWith(ctx, 3*s.o.Time, "streams", &got, "-way", "up", "-n", "1"); err != nil {
			return err
		}
		s.add(bench.Throughput, got.Mbits())
		s.costs(got.Costs, got.Bytes())
		return nil
	}}
}

// beside is for how much longer the downloads beside requests are measured: they are under way before the first request and after
// the last.
const beside = time.Second

// requests are one after the other, beside downloads by another process: its Go scheduler must not be what is measured.
func requests(name string, downloads int) Scenario {
	sc := Scenario{Name: name}
	if downloads > 0 {
		sc.More = beside
	}
	sc.run = func(ctx context.Context, s *stage) error {
		var got load.Requests
		if err := s.besideDownloads(ctx, downloads, s.o.Time+sc.More, func() error { return s.load(ctx, "requests", &got) }); err != nil {
			return err
		}
		s.add(bench.P50, bench.Percentile(got.Millis, 50))
		s.add(bench.P99, bench.Percentile(got.Millis, 99))
		return nil
	}
	return sc
}

// besideDownloads runs ask while that many streams come down for t, and notes what they carried.
func (s *stage) besideDownloads(ctx context.Context, downloads int, t time.Duration, ask func() error) error {
	if downloads == 0 {
		return ask()
	}
	var out bytes.Buffer
	p, err := s.client(&out, nil, t, "streams", "-way", "down", "-n", strconv.Itoa(downloads))
	if err != nil {
		return err
	}
	defer p.Kill()
	if err := ask(); err != nil {
		return err
	}
	var got load.Streams
	if err := s.result(ctx, p, t, &out, &got); err != nil {
		return err
	}
	s.add(bench.Throughput, got.Mbits())
	return nil
}

func datagrams(name string, size int) Scenario {
	return Scenario{Name: name, run: func(ctx context.Context, s *stage) error {
		if s.pair.UDP == "" {
			return errNoUDP
		}
		var got load.Datagrams
		if err := s.load(ctx, "datagrams", &got, "-n", strconv.Itoa(size)); err != nil {
			return err
		}
		s.add(bench.PerSecond, float64(got.Came)/got.Took.Seconds())
		s.add(bench.Lost, 1-float64(got.Came)/float64(max(got.Sent, 1)))
		s.costs(got.Costs, 0)
		return nil
	}}
}

// workers open connections at a time.
const workers = 16

func connections(ctx context.Context, s *stage) error {
	var got load.Requests
	if err := s.load(ctx, "connections", &got, "-n", strconv.Itoa(workers)); err != nil {
		return err
	}
	return s.cycles(got)
}

// churn goes on long enough that what is never given back runs out.
func churn(ctx context.Context, s *stage) error {
	var got load.Requests
	const slowest = 500 // cycles a second: who is slower than that is cut off
	limit := 2*time.Minute + time.Duration(s.o.Cycles/slowest)*time.Second
	if err := s.loadWith(ctx, limit, "connections", &got, "-n", strconv.Itoa(workers), "-cycles", strconv.Itoa(s.o.Cycles)); err != nil {
		return err
	}
	s.add(bench.Decay, got.Decay())
	return s.cycles(got)
}

func (s *stage) cycles(got load.Requests) error {
	s.add(bench.PerSecond, float64(len(got.Millis))/got.Took.Seconds())
	s.add(bench.P50, bench.Percentile(got.Millis, 50))
	s.add(bench.P99, bench.Percentile(got.Millis, 99))
	s.add(bench.Errors, float64(got.Errors))
	s.costs(got.Costs, 0)
	if got.Errors > 0 {
		return fmt.Errorf("%d of %d failed, such as: %s", got.Errors, got.Errors+len(got.Millis), got.FirstFail)
	}
	return nil
}

func idle(ctx context.Context, s *stage) error {
	costs, err := s.pair.Idle(ctx)
	s.memory(costs)
	return err
}

func (s *stage) memory(costs []load.Cost) {
	for i, c := range costs {
		s.memoryOf(i, c.Now)
	}
}

// hold keeps 1,000 idle connections and looks at the memory.
func hold(ctx context.Context, s *stage) error { return s.hold(ctx, 0, "-n", "1000") }

// stall has 1,000 downloads of which nothing is read, long enough for all that is sent to have come to rest.
func stall(ctx context.Context, s *stage) error {
	return s.hold(ctx, 5*s.o.Time, "-n", "1000", "-stalled")
}

func (s *stage) hold(ctx context.Context, wait time.Duration, flags ...string) error {
	// Pipes of the system, not of the library: a client that dies must not leave us waiting for a copy to end.
	heard, told, err := os.Pipe()
	if err != nil {
		return err
	}
	defer heard.Close()
	in, release, err := os.Pipe()
	if err != nil {
		return errors.Join(err, told.Close())
	}
	defer release.Close()
	p, err := s.client(told, in, s.o.Time, "hold", flags...)
	_, _ = told.Close(), in.Close() // the client has its own
	if err != nil {
		return err
	}
	defer p.Kill()
	_ = heard.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(heard, make([]byte, len("held\n"))); err != nil {
		return errors.Join(fmt.Errorf("1,000 connections did not open: %w: %s", err, p.Said()), s.pair.Alive())
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
	}
	costs, err := s.pair.Idle(ctx)
	s.memory(costs)
	return err
}

// start ends the near end and begins it anew.
func start(ctx context.Context, s *stage) error {
	took, err := s.pair.Restart(ctx)
	if err == nil {
		s.add(bench.Millis, float64(took)/float64(time.Millisecond))
	}
	return err
}

// crowd has 1,000 peers shake hands.
func crowd(ctx context.Context, s *stage) error {
	got, err := contender.RunCrowd(ctx, s.o.Setup, s.contender, 1000, 5)
	if err != nil {
		return err
	}
	s.add(bench.Peak, float64(got.Memory)/mebi)
	s.add(bench.PerSecond, got.Answers.PerSecond())
	s.add(bench.Lost, float64(got.Answers.Lost))
	if got.Answers.Cookies > 0 {
		return fmt.Errorf("%d of its answers were cookies: it thought itself overloaded", got.Answers.Cookies)
	}
	return nil
}
