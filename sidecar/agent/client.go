package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// client talks to the coordinator.
type client struct {
	base      *url.URL
	tokenFile string
	caFile    string

	mu   sync.Mutex
	ca   []byte // what http was made with
	http *http.Client
}

// statusError is an answer other than success; the coordinator's text says why.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("coordinator answers %d: %s", e.code, e.text)
}

func newClient(base *url.URL, tokenFile, caFile string) *client {
	return &client{base: base, tokenFile: tokenFile, caFile: caFile}
}

// transport returns an HTTP client that trusts what the CA file holds now: the operator rotates it.
func (c *client) transport() (*http.Client, error) {
	pem, err := os.ReadFile(c.caFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil && bytes.Equal(c.ca, pem) {
		return c.http, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificate authority: %s holds no PEM certificate", c.caFile)
	}
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
	c.ca, c.http = pem, &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: minTLS},
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConns:        2,
		// A connection whose other end is gone without a word is found out even while a stream waits on it.
		HTTP2:           &http.HTTP2Config{SendPingTimeout: wire.HeartbeatInterval, PingTimeout: 5 * time.Second},
		IdleConnTimeout: time.Minute,
		Proxy:           nil, // the tunnel's own proxies must not carry what sets the tunnel up
	}}
	return c.http, nil
}

// anew makes the next request dial: perhaps another replica, and never a connection on which nothing arrives any more. Requests
// under way go on.
func (c *client) anew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		c.http.CloseIdleConnections()
		c.http = nil
	}
}

func (c *client) do(ctx context.Context, method, path, query string, in any) (*http.Response, error) {
	h, err := c.transport()
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	u := *c.base
	u.Path, u.RawQuery = path, query
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := h.Do(req)
	if err != nil {
		c.anew()
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
		return nil, &statusError{res.StatusCode, strings.TrimSpace(string(text))}
	}
	return res, nil
}

// register says who we are and learns our addresses.
func (c *client) register(ctx context.Context, r wire.Registration) (wire.Registered, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	res, err := c.do(ctx, http.MethodPost, wire.RegisterPath, "", r)
	if err != nil {
		return wire.Registered{}, fmt.Errorf("register: %w", err)
	}
	defer res.Body.Close()
	var out wire.Registered
	if err := json.NewDecoder(io.LimitReader(res.Body, wire.MaxBody)).Decode(&out); err != nil {
		return wire.Registered{}, fmt.Errorf("register: decode answer: %w", err)
	}
	return out, nil
}

// report says whether the data path is up.
func (c *client) report(ctx context.Context, r wire.Report) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := c.do(ctx, http.MethodPost, wire.ReportPath, "", r)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return res.Body.Close()
}

// reportPeers says which outside peers are there.
func (c *client) reportPeers(ctx context.Context, r wire.PeerReport) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := c.do(ctx, http.MethodPost, wire.PeersPath, "", r)
	if err != nil {
		return fmt.Errorf("report peers: %w", err)
	}
	return res.Body.Close()
}

// watch opens the stream and calls on for every event, until one fails, the stream ends or is silent for three heartbeats.
func (c *client) watch(ctx context.Context, revision string, silence time.Duration, on func(wire.Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("nothing heard for %s", silence)) })
	defer quiet.Stop()
	res, err := c.do(ctx, http.MethodGet, wire.WatchPath, url.Values{"revision": {revision}}.Encode(), nil)
	if err != nil {
		return fmt.Errorf("watch: %w", orCause(ctx, err))
	}
	defer c.anew()
	defer res.Body.Close()
	r := wire.NewReader(res.Body)
	for {
		e, err := r.Next()
		if err != nil {
			return fmt.Errorf("watch: %w", orCause(ctx, err))
		}
		quiet.Reset(silence)
		if err := on(e); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
}

// orCause prefers why we ended a context over how that looked to the reader.
func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// jitter spreads a wait over 50..150 %, so that members which lost a coordinator together do not come back together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d)
}
