package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const dialTimeout = 10 * time.Second

// newBytes returns n bytes that do not compress and are the same in every run.
func newBytes(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

// newClient uses a connection once: so net/http retries nothing, and every request says whether a new connection works.
// It honours HTTP_PROXY as every Go program does, unless it is given a proxy of its own.
func newClient(timeout time.Duration, proxy *url.URL) *http.Client {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, DisableCompression: true}
	switch {
	case proxy == nil:
	case proxy.Scheme == "http":
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, to string) (net.Conn, error) { return dialThrough(ctx, proxy.Host, to) }
	default:
		t.Proxy = http.ProxyURL(proxy)
	}
	return &http.Client{Timeout: timeout, Transport: t}
}

// dialThrough asks an HTTP proxy to CONNECT, as for https; net/http itself does so for nothing else.
func dialThrough(ctx context.Context, proxy, to string) (net.Conn, error) {
	c, err := dial(ctx, "tcp", proxy)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })()
	_, err = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	if err == nil {
		var r *http.Response
		// A server speaks second: nothing is read ahead of the answer's end.
		r, err = http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // it has none
		if err == nil && r.StatusCode != http.StatusOK {
			err = fmt.Errorf("proxy answers %s", r.Status)
		}
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("connect through %s: %w", proxy, err)
	}
	return c, nil
}

func get(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("get", flag.ExitOnError)
	n := fs.Int("n", 1, "how often to get every URL")
	interval := fs.Duration("interval", 0, "pause between rounds")
	timeout := fs.Duration("timeout", 10*time.Second, "timeout of a request")
	every := fs.Duration("every", 0, "begin a request so often, whatever became of those before; the first URL only, until told to end")
	var proxy *url.URL
	fs.Func("proxy", "proxy to ask, socks5://HOST:PORT or http://HOST:PORT", func(s string) (err error) {
		proxy, err = url.Parse(s)
		return err
	})
	_ = fs.Parse(args)
	if fs.NArg() == 0 {
		return errors.New("no URL")
	}

	if *every > 0 {
		return getEvery(ctx, *every, newClient(*timeout, proxy), fs.Arg(0))
	}

	var failed error
	for i := range *n {
		if i > 0 {
			time.Sleep(*interval)
		}
		for _, u := range fs.Args() {
			status, body, err := getOne(ctx, newClient(*timeout, proxy), u)
			if err != nil {
				fmt.Println("ERR", u, err)
				failed = errReported
				continue
			}
			fmt.Println(u, status, body)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return failed
}

// getEvery says of each request, when it is over, when it began and what became of it.
func getEvery(ctx context.Context, every time.Duration, c *http.Client, url string) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		go func() {
			began, result := time.Now(), "OK"
			if _, _, err := getOne(ctx, c, url); err != nil {
				result = "ERR " + err.Error()
			}
			fmt.Printf("%s %d %s\n", began.Format(time.RFC3339Nano), time.Since(began).Milliseconds(), result)
		}()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func getOne(ctx context.Context, c *http.Client, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	r, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, strings.TrimSpace(string(b)), err
}

func download(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("want URL")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	start := time.Now()
	r, err := newClient(0, nil).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()
	d := digestOf(r.Body)
	want := digestOf(newBytes(d.Bytes))
	ok := r.StatusCode == http.StatusOK && d.Error == "" && d.SHA256 == want.SHA256 && d.Bytes == r.ContentLength
	return report(ok, d, start)
}

func upload(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("want URL N")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, args[0], newBytes(n))
	if err != nil {
		return err
	}
	req.ContentLength = n
	start := time.Now()
	r, err := newClient(0, nil).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()
	return compare(r.Body, n, start)
}

// compare reads the receiver's digest and reports whether it got the n bytes.
func compare(r io.Reader, n int64, start time.Time) error {
	var d digest
	if err := json.NewDecoder(r).Decode(&d); err != nil {
		return fmt.Errorf("read the receiver's answer: %w", err)
	}
	return report(d == digestOf(newBytes(n)), d, start)
}

func report(ok bool, d digest, start time.Time) error {
	s := time.Since(start).Seconds()
	printJSON(map[string]any{"ok": ok, "bytes": d.Bytes, "sha256": d.SHA256, "error": d.Error, "seconds": s, "mbps": float64(d.Bytes) * 8 / 1e6 / s})
	if !ok {
		return errReported
	}
	return nil
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, network, address)
}

func addressAndCount(args []string) (string, int64, error) {
	if len(args) != 2 {
		return "", 0, errors.New("want ADDRESS N")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	return args[0], n, err
}

func send(ctx context.Context, args []string) error {
	address, n, err := addressAndCount(args)
	if err != nil {
		return err
	}
	start := time.Now()
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := io.Copy(c, newBytes(n)); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	return compare(c, n, start)
}

func halfClose(ctx context.Context, args []string) error {
	address, n, err := addressAndCount(args)
	if err != nil {
		return err
	}
	start, token := time.Now(), strconv.FormatUint(rand.Uint64(), 36)
	if err := putAfterClose(ctx, address, token, n); err != nil {
		return err
	}
	// The server's last reads may lag behind our close.
	for {
		c, err := dial(ctx, "tcp", address)
		if err != nil {
			return err
		}
		var d digest
		_, _ = fmt.Fprintf(c, "get %s\n", token)
		err = json.NewDecoder(c).Decode(&d)
		_ = c.Close()
		if err == nil {
			return report(d == digestOf(newBytes(n)), d, start)
		}
		if ctx.Err() != nil || time.Since(start) > time.Minute {
			return fmt.Errorf("ask what the server got: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func putAfterClose(ctx context.Context, address, token string, n int64) error {
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintf(c, "put %s\n", token); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(dialTimeout))
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye\n" { // ReadAll returns when the server half-closed
		return fmt.Errorf("read until the server's half-close: got %q: %w", b, err)
	}
	_, err = io.Copy(c, newBytes(n))
	return err
}

func expectReset(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("want ADDRESS")
	}
	c, err := dial(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte{0}); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(dialTimeout))
	_, err = c.Read(make([]byte, 1))
	ok := errors.Is(err, syscall.ECONNRESET)
	printJSON(map[string]any{"ok": ok, "error": errorString(err)})
	if !ok {
		return errReported
	}
	return nil
}
