package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// stream is a TCP connection as a datapath has them.
type stream struct{ *net.TCPConn }

func (s stream) Abort() { _ = s.SetLinger(0); _ = s.Close() }

// served is a responder on loopback, and how to get there.
func served(t *testing.T, token string) Dial {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); Responder{token}.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return func(ctx context.Context) (datapath.Stream, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		return stream{c.(*net.TCPConn)}, nil
	}
}

func asking(token string) wire.BenchRun {
	return wire.BenchRun{Token: token, Streams: 3, Seconds: 1, MaxBytes: 8 << 20}
}

func TestRun(t *testing.T) {
	token := NewToken()
	var begun []string
	var phases []wire.BenchPhase
	err := Run(t.Context(), asking(token), served(t, token), func(e wire.BenchEvent) error {
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
		if e.Phase != nil {
			phases = append(phases, *e.Phase)
		} else {
			begun = append(begun, e.Begins)
		}
		return nil
	})
	if err != nil || strings.Join(begun, "; ") != "idle; up, 1 streams; down, 1 streams; up, 3 streams; down, 3 streams" || len(phases) != 5 {
		t.Fatal(err, begun, phases)
	}
	for i, p := range phases {
		if (p.Streams == 0) != (i == 0) || p.Streams == 0 && p.Bytes != 0 || p.Seconds <= 0 || p.RoundTrips == 0 || p.P50Micros <= 0 || p.P99Micros < p.P50Micros {
			t.Errorf("%+v", p)
		}
		if i > 0 && p.Bytes == 0 || p.Bytes > 8<<20+3*chunk {
			t.Errorf("bytes: %+v", p)
		}
	}
	if phases[1].Bytes == 0 || phases[1].BitsPerSecond == 0 {
		t.Errorf("nothing was sent: %+v", phases[1])
	}
}

func TestWrongToken(t *testing.T) {
	err := Run(t.Context(), asking(NewToken()), served(t, NewToken()), func(wire.BenchEvent) error { return nil })
	if err == nil || !strings.HasPrefix(err.Error(), "idle: round trip:") {
		t.Errorf("%v", err)
	}
}

// A measurement ends with its context, and with whoever it tells.
func TestRunEnds(t *testing.T) {
	token := NewToken()
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, wire.BenchRun{Token: token, Streams: 1, Seconds: 10, MaxBytes: 1}, served(t, token), func(wire.BenchEvent) error {
		time.AfterFunc(20*time.Millisecond, cancel)
		return nil
	})
	if err == nil || ctx.Err() == nil {
		t.Errorf("it went on: %v", err)
	}
	nobody := errors.New("nobody listens")
	if err := Run(t.Context(), asking(token), nil, func(wire.BenchEvent) error { return nobody }); !errors.Is(err, nobody) {
		t.Error(err)
	}
	no := func(context.Context) (datapath.Stream, error) { return nil, nobody }
	if err := Run(t.Context(), asking(token), no, func(wire.BenchEvent) error { return nil }); !errors.Is(err, nobody) {
		t.Error(err)
	}
}

// A responder bounds who is connected, and ends them all.
func TestResponderIsBounded(t *testing.T) {
	dial := served(t, NewToken())
	var all sync.WaitGroup
	shut := make(chan struct{}, maxConnections+1)
	var conns []datapath.Stream
	for range maxConnections + 1 {
		s, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, s)
		all.Go(func() {
			if _, err := s.Read(make([]byte, 1)); err != nil && !errors.Is(err, net.ErrClosed) {
				shut <- struct{}{}
			}
		})
	}
	<-shut // one too many
	for _, s := range conns {
		_ = s.Close()
	}
	all.Wait()
}

func FuzzResponder(f *testing.F) {
	f.Add([]byte(strings.Repeat("a", wire.BenchTokenSize) + "u" + "hello"))
	f.Add([]byte(strings.Repeat("a", wire.BenchTokenSize) + "e" + strings.Repeat("m", messageSize)))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > wire.BenchTokenSize && in[wire.BenchTokenSize] == download {
			return // it sends until somebody has enough
		}
		a, b := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			Responder{strings.Repeat("a", wire.BenchTokenSize)}.answer(context.Background(), b)
		}()
		go func() { _, _ = a.Write(in); _ = a.Close() }()
		_, _ = io.Copy(io.Discard, a)
		<-done
	})
}
