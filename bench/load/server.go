package load

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Server answers every client's wishes and counts bytes by run and stream.
type Server struct {
	mu   sync.Mutex
	runs map[uint32]map[uint32]*atomic.Int64

	// pace, where it is set, sleeps before every read and write: a test's way to have a slow server.
	pace time.Duration
}

// NewServer makes a server that listens nowhere yet.
func NewServer() *Server { return &Server{runs: map[uint32]map[uint32]*atomic.Int64{}} }

func (s *Server) counter(run, stream uint32) *atomic.Int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs[run] == nil {
		s.runs[run] = map[uint32]*atomic.Int64{}
	}
	if s.runs[run][stream] == nil {
		s.runs[run][stream] = new(atomic.Int64)
	}
	return s.runs[run][stream]
}

// Counters are the bytes (of datagrams: their number) that came for a run, by stream.
func (s *Server) Counters(run uint32) map[uint32]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint32]int64{}
	for stream, n := range s.runs[run] {
		out[stream] = n.Load()
	}
	return out
}

// ServeTCP accepts until the listener closes.
func (s *Server) ServeTCP(l net.Listener) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			time.Sleep(time.Millisecond) // out of files, most likely: some come free
			continue
		}
		go s.serve(c)
	}
}

func (s *Server) serve(c net.Conn) {
	defer c.Close()
	var head [headerSize]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	want, run, stream, err := parseHeader(head[:])
	if err != nil {
		return
	}
	switch want {
	case wantSink:
		s.sink(c, s.counter(run, stream))
	case wantSource:
		s.source(c)
	case wantEcho:
		s.echo(c)
	}
}

const chunk = 256 << 10

func (s *Server) sink(c net.Conn, n *atomic.Int64) {
	for b := make([]byte, chunk); ; {
		time.Sleep(s.pace)
		k, err := c.Read(b)
		n.Add(int64(k))
		if err != nil {
			return
		}
	}
}

func (s *Server) source(c net.Conn) {
	for b := make([]byte, chunk); ; {
		time.Sleep(s.pace)
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func (s *Server) echo(c net.Conn) {
	for b := make([]byte, RequestSize); ; {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		time.Sleep(s.pace)
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// ServeUDP counts datagrams until the socket closes.
func (s *Server) ServeUDP(c net.PacketConn) error {
	b := make([]byte, 1<<16)
	var last uint32
	var counter *atomic.Int64
	for {
		n, _, err := c.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if _, run, stream, bad := parseHeader(b[:n]); err == nil && bad == nil {
			if counter == nil || run != last { // a look into the map for each of a million datagrams would be what is measured
				last, counter = run, s.counter(run, stream)
			}
			counter.Add(1)
		}
	}
}

// Handler answers GET /counters?run=N, and GET /ready once it is served.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, r *http.Request) {
		run, err := strconv.ParseUint(r.FormValue("run"), 10, 32)
		if err != nil {
			http.Error(w, "run: "+err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(s.Counters(uint32(run)))
	})
	return mux
}

// counters asks a server for a run's counters.
func counters(ctx context.Context, control string, run uint32) (map[uint32]int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, control+"/counters?run="+strconv.FormatUint(uint64(run), 10), nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	var out map[uint32]int64
	return out, json.NewDecoder(res.Body).Decode(&out)
}
