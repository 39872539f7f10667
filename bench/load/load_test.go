package load

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// lab is a server on loopback, with no tunnel between.
func lab(t *testing.T, pace time.Duration) Target {
	t.Helper()
	s := NewServer()
	s.pace = pace
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.ServeTCP(l) }()
	go func() { _ = s.ServeUDP(u) }()
	web := httptest.NewServer(s.Handler())
	t.Cleanup(func() { _, _ = l.Close(), u.Close(); web.Close() })
	return Target{Addr: l.Addr().String(), Control: web.URL, Warm: 10 * time.Millisecond, Time: 100 * time.Millisecond, Watch: []int{os.Getpid()}}
}

func TestStreamsCountWhatArrives(t *testing.T) {
	for _, way := range []string{"up", "down", "both"} {
		s, err := RunStreams(t.Context(), lab(t, 0), 3, way)
		if err != nil {
			t.Fatal(way, err)
		}
		wantUp, wantDown := 3, 3
		if way == "up" {
			wantDown = 0
		} else if way == "down" {
			wantUp = 0
		}
		if len(s.Up) != wantUp || len(s.Down) != wantDown || s.Broken != 0 {
			t.Errorf("%s: %+v", way, s)
		}
		if s.Mbits() <= 0 || s.Costs[0].Peak <= 0 {
			t.Errorf("%s: %+v", way, s)
		}
	}
}

// A server that reads nothing yields nothing, whatever the sockets between have swallowed.
func TestStreamsToADeafServer(t *testing.T) {
	s, err := RunStreams(t.Context(), lab(t, time.Hour), 2, "up")
	if err != nil {
		t.Fatal(err)
	}
	if s.Bytes() != 0 || len(s.Up) != 2 {
		t.Errorf("%+v, want two streams of nothing", s)
	}
}

// A server a hundred times slower than another yields less: more would mean that we measure ourselves.
func TestStreamsFromASlowServer(t *testing.T) {
	fast, err := RunStreams(t.Context(), lab(t, 0), 1, "down")
	slow, err2 := RunStreams(t.Context(), lab(t, 40*time.Millisecond), 1, "down")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if slow.Mbits() >= fast.Mbits() {
		t.Errorf("slow %.0f, fast %.0f Mbit/s", slow.Mbits(), fast.Mbits())
	}
}

func TestStreamsThatBreakAreTold(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	target := lab(t, 0)
	target.Addr = l.Addr().String()
	s, err := RunStreams(t.Context(), target, 2, "down")
	if err != nil {
		t.Fatal(err)
	}
	if s.Broken != 2 || s.FirstFail == "" {
		t.Errorf("%+v, want two broken streams", s)
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	target := Target{Addr: l.Addr().String(), Time: 20 * time.Millisecond}
	if _, err := RunStreams(t.Context(), target, 1, "up"); err == nil {
		t.Error("streams to nobody")
	}
	if _, err := RunRequests(t.Context(), target); err == nil {
		t.Error("requests to nobody")
	}
	c, err := RunConnections(t.Context(), target, 2, 50)
	if err != nil || c.Errors != 50 || c.FirstFail == "" || len(c.Millis) != 0 {
		t.Errorf("%+v %v, want 50 errors", c, err)
	}
}

// Requests to a server that thinks for 20 ms take at least that long: a lower bound cannot be missed on a busy machine.
func TestRequestsWaitForTheAnswer(t *testing.T) {
	r, err := RunRequests(t.Context(), lab(t, 20*time.Millisecond))
	if err != nil || len(r.Millis) == 0 {
		t.Fatal(r, err)
	}
	for _, ms := range r.Millis {
		if ms < 20 {
			t.Errorf("answered after %v ms", ms)
		}
	}
}

func TestConnections(t *testing.T) {
	c, err := RunConnections(t.Context(), lab(t, 0), 4, 200)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Millis) != 200 || c.Errors != 0 {
		t.Errorf("%d cycles, %d errors (%s)", len(c.Millis), c.Errors, c.FirstFail)
	}
}

func TestRates(t *testing.T) {
	begin := time.Unix(0, 0)
	var at []time.Time
	for i := range 100 { // a hundred in the first second, ten in the last of ten
		at = append(at, begin.Add(time.Duration(i)*10*time.Millisecond))
	}
	for i := range 10 {
		at = append(at, begin.Add(9*time.Second+time.Duration(i)*100*time.Millisecond))
	}
	r := Requests{Rates: rates(begin, 10*time.Second, at)}
	if r.Rates[0] != 100 || r.Rates[5] != 0 || r.Decay() != 0.1 {
		t.Error(r.Rates, r.Decay())
	}
	if d := (Requests{Rates: make([]float64, tenths)}).Decay(); d != 0 {
		t.Error("nothing at all does not decay, it stands still:", d)
	}
}

func TestDatagrams(t *testing.T) {
	target := lab(t, 0)
	d, err := RunDatagrams(t.Context(), target, 64)
	if err != nil {
		t.Fatal(err)
	}
	if d.Came <= 0 || d.Sent <= 0 {
		t.Errorf("%+v", d)
	}
	if _, err := RunDatagrams(t.Context(), target, 36); err == nil {
		t.Error("a datagram without room for its name")
	}
}

func TestHold(t *testing.T) {
	held := errors.New("held")
	for _, stalled := range []bool{false, true} {
		if err := Hold(t.Context(), lab(t, 0), 20, stalled, func() error { return held }); !errors.Is(err, held) {
			t.Errorf("stalled %t: %v", stalled, err)
		}
	}
}

func TestAnEndedContenderIsNoResult(t *testing.T) {
	target := lab(t, 0)
	target.Watch = []int{1 << 30}
	if _, err := RunStreams(t.Context(), target, 1, "up"); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Error(err)
	}
}

func TestFirst(t *testing.T) {
	if err := First(context.Background(), lab(t, 0).Addr, patience); err != nil {
		t.Error(err)
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 8 0 100 1000 10"
	for _, name := range []string{"(sidecar)", "(a b)", "(x) y)", "(()"} {
		if d, err := parseStat("77 " + name + rest); err != nil || d != 3*time.Second {
			t.Error(name, d, err)
		}
	}
	for _, bad := range []string{"", "77 (x) S 1 2", "77 (x) S 1 1 1 0 -1 4194560 100 0 0 0 a b 0"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseStatus(t *testing.T) {
	n, err := parseStatus("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t1024 kB\n", "VmHWM:")
	if err != nil || n != 2<<20 {
		t.Error(n, err)
	}
	if _, err := parseStatus("Name:\tx\n", "VmHWM:"); err == nil {
		t.Error("memory of a process that has none")
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(header(wantSink, 1, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		want, run, stream, err := parseHeader(b)
		if err == nil && string(header(want, run, stream)) != string(b[:headerSize]) {
			t.Errorf("%x", b)
		}
	})
}
