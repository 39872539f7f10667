package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A server in a cluster is told to end before everybody knows that it will: it takes requests for a while longer, and finishes what
// it has begun. One that breaks off in the middle of an answer would fail its client on any network.
const (
	serveOn = time.Second
	finish  = 5 * time.Second
)

// serve runs every role until serveOn after ctx ends.
func serve(ctx context.Context, args []string) error {
	ctx, end := outlast(ctx, serveOn)
	defer end()
	if len(args) == 0 {
		args = []string{"http=:8080"}
	}
	handlers := map[string]func(net.Conn){
		"tcp-echo": echo, "sink": sink, "half-close": new(closer).handle, "reset": reset,
	}
	errs := make(chan error, len(args))
	var web sync.WaitGroup
	for _, a := range args {
		role, address, ok := strings.Cut(a, "=")
		switch handler := handlers[role]; {
		case !ok:
			return fmt.Errorf("want ROLE=ADDRESS, got %q", a)
		case handler != nil:
			go func() { errs <- serveTCP(ctx, address, handler) }()
		case role == "http":
			web.Go(func() { errs <- serveHTTP(ctx, address) })
		case role == "dns":
			go func() { errs <- serveNames(ctx, address) }()
		case role == "udp-echo":
			go func() { errs <- serveUDP(ctx, address) }()
		default:
			return fmt.Errorf("unknown role %q", role)
		}
	}
	fmt.Println("serving", args)
	select {
	case <-ctx.Done():
		web.Wait()
		return nil
	case err := <-errs:
		return err
	}
}

// outlast is a context that ends some time after ctx does.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	later, end := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(d, end) })
	return later, end
}

func serveTCP(ctx context.Context, address string, handle func(net.Conn)) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = c.Close() }()
			handle(c)
		}()
	}
}

func serveUDP(ctx context.Context, address string) error {
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", address)
	if err != nil {
		return err
	}
	b := make([]byte, 65535)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b[:n], from); err != nil {
			fmt.Println("udp-echo:", err)
		}
	}
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// digest is what a receiver tells of the bytes it got.
type digest struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Error  string `json:"error,omitempty"`
}

func digestOf(r io.Reader) digest {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return digest{n, hex.EncodeToString(h.Sum(nil)), errorString(err)}
}

// sink answers only after the client's half-close.
func sink(c net.Conn) { _ = json.NewEncoder(c).Encode(digestOf(c)) }

// reset waits for a byte, so that the client has the connection, and then ends it with a reset.
func reset(c net.Conn) {
	_, _ = c.Read(make([]byte, 1))
	_ = c.(*net.TCPConn).SetLinger(0)
}

// closer closes its own direction first and then keeps reading. What it got then it tells on another connection, as
// on the first it has nothing more to say: "put TOKEN\n" and bytes, later "get TOKEN\n".
type closer struct {
	mu  sync.Mutex
	got map[string]digest
}

func (s *closer) handle(c net.Conn) {
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	verb, token, _ := strings.Cut(strings.TrimSpace(line), " ")
	if verb == "get" {
		s.mu.Lock()
		d, ok := s.got[token]
		s.mu.Unlock()
		if ok {
			_ = json.NewEncoder(c).Encode(d)
		}
		return
	}
	if _, err := io.WriteString(c, "bye\n"); err != nil {
		return
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return
	}
	d := digestOf(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.got == nil {
		s.got = map[string]digest{}
	}
	s.got[token] = d
}

func serveHTTP(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", hello)
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("/download", serveDownload)
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(digestOf(r.Body)) })
	s := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
		defer cancel()
		ended <- s.Shutdown(grace)
	})
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

// hello says who answers, and from where it was asked.
func hello(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname()
	var ips []string
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			ips = append(ips, n.IP.String())
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"host": host, "ips": ips, "from": r.RemoteAddr, "uid": os.Getuid(), "path": r.URL.Path, "asked": r.Host, "body": r.URL.Query().Get("say"),
	})
}

// serveDownload sends ?bytes=N, and with ?rate=N no more than so many bytes a second.
func serveDownload(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	if err != nil {
		http.Error(w, "want ?bytes=N", http.StatusBadRequest)
		return
	}
	rate, _ := strconv.ParseInt(r.URL.Query().Get("rate"), 10, 64)
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	body := newBytes(n)
	if rate <= 0 {
		_, _ = io.Copy(w, body)
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.CopyN(w, body, max(rate/10, 1)); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}
