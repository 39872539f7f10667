package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// freePort returns a loopback address that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

func TestClientsAgainstServers(t *testing.T) {
	at := map[string]string{}
	var args []string
	for _, role := range []string{"http", "tcp-echo", "udp-echo", "sink", "half-close", "reset"} {
		at[role] = freePort(t)
		args = append(args, role+"="+at[role])
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { _ = serve(ctx, args) }()
	for _, role := range []string{"http", "tcp-echo", "sink", "half-close", "reset"} {
		waitFor(t, at[role])
	}
	url := "http://" + at["http"]
	for _, args := range [][]string{
		{"get", "-n", "2", url + "/", url + "/healthz"},
		{"download", url + "/download?bytes=3000001"},
		{"download", url + "/download?bytes=20000&rate=100000"},
		{"upload", url + "/upload", "3000001"},
		{"send", at["sink"], "3000001"},
		{"send", at["sink"], "0"},
		{"half-close", at["half-close"], "1000001"},
		{"reset", at["reset"]},
		{"tcp-ping", "-interval", "5ms", "-duration", "100ms", at["tcp-echo"]},
		{"udp-ping", "-interval", "5ms", "-duration", "100ms", "-size", "1200", at["udp-echo"]},
		{"lookup", "localhost"},
		{"exit"},
	} {
		if got := run(args); got != 0 {
			t.Errorf("%q: exit status %d", args, got)
		}
	}
	for _, args := range [][]string{
		{"get", "http://" + freePort(t)},
		{"send", freePort(t), "1"},
		{"download", url + "/download"},
		{"reset", at["tcp-echo"]},
		{"udp-ping", "-interval", "5ms", "-duration", "50ms", freePort(t)},
		{"exit", "1"},
		{"nonsense"},
	} {
		if got := run(args); got != 1 {
			t.Errorf("%q: exit status %d, want 1", args, got)
		}
	}
	if got := run([]string{"exit", "7"}); got != 7 {
		t.Errorf("exit 7: exit status %d", got)
	}
}

func waitFor(t *testing.T, address string) {
	t.Helper()
	var err error
	for range 3000 {
		var c net.Conn
		if c, err = net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal(fmt.Errorf("wait for %s: %w", address, err))
}

func TestGetThroughAProxy(t *testing.T) {
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Store(r.Host); r.Method != http.MethodConnect || r.Host == "refused.example:80" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n")
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}))
	defer proxy.Close()
	if got := run([]string{"get", "-proxy", proxy.URL, "http://nowhere.example/"}); got != 0 || asked.Load() != "nowhere.example:80" {
		t.Errorf("exit status %d, the proxy was asked for %v", got, asked.Load())
	}
	if got := run([]string{"get", "-proxy", proxy.URL, "http://refused.example/"}); got != 1 {
		t.Errorf("exit status %d although the proxy refused", got)
	}
}

// A server that is told to end takes requests for a while longer, and ends by itself.
func TestServeOn(t *testing.T) {
	address := freePort(t)
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, []string{"http=" + address}) }()
	ask := func() error {
		r, err := http.Get("http://" + address)
		if err == nil {
			_ = r.Body.Close()
		}
		return err
	}
	for ask() != nil {
		time.Sleep(time.Millisecond)
	}
	end()
	if err := ask(); err != nil {
		t.Errorf("just after it was told to end: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if ask() == nil {
		t.Error("it still answers")
	}
}
