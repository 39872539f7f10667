package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// server serves webhooks so that no caller loses a request to a connection that is being closed.
//
// API servers speak HTTP/1.1 to webhooks and keep connections for later requests. A request that is on its way while the connection is
// closed fails, and is not tried again, because it is a POST: a pod is refused. HTTP/1.1 has no word for "no more requests after this
// one" but in an answer. So
//
//  1. callers close first: a connection may be idle here for longer than there;
//  2. once the replica is told to end, every answer closes its connection. New connections are accepted all the while, until the
//     endpoints have moved: that time is the operator's to give;
//  3. connections that nobody has used since are told by an answer without a request. A caller whose request is on its way takes it as
//     the answer to that and calls again, on another connection; any other caller drops the connection.
type server struct {
	ctrlwebhook.Server // registers handlers and counts their requests
	address            string
	certificates       *Certificates
	ending             <-chan struct{}
	listens            atomic.Bool

	mu     sync.Mutex
	unused map[net.Conn]bool // connections without a request
}

const (
	// callerIdle is how long an API server keeps an idle connection (net/http's default), with room for its clock.
	callerIdle = 2 * 90 * time.Second
	// grace is what requests under way get at the end, and how long callers may take to drop their connections.
	grace = 3 * time.Second
	// farewell is the answer without a request. API servers try again after what says when, whatever the method was.
	farewell = "HTTP/1.1 503 This replica of TenantWire ends\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

// NewServer is a webhook server that presents the certificates; it goes into the manager's options. It may start before there is a
// certificate: until then handshakes fail, and the replica is not ready. From when ending is closed it gets rid of its connections,
// and still serves until the manager stops it.
func NewServer(c *Certificates, host string, port int, ending <-chan struct{}) ctrlwebhook.Server {
	return &server{
		Server:  ctrlwebhook.NewServer(ctrlwebhook.Options{WebhookMux: http.NewServeMux()}),
		address: net.JoinHostPort(host, strconv.Itoa(port)), certificates: c, ending: ending, unused: map[net.Conn]bool{},
	}
}

// StartedChecker is a readiness check: it fails until connections are accepted.
func (s *server) StartedChecker() healthz.Checker {
	return func(*http.Request) error {
		if !s.listens.Load() {
			return errors.New("the webhook server does not listen yet")
		}
		return nil
	}
}

// Start serves until ctx ends.
func (s *server) Start(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.address)
	if err != nil {
		return fmt.Errorf("listen for the API server on %s: %w", s.address, err)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(s.serve), TLSConfig: &tls.Config{}, Protocols: new(http.Protocols), //nolint:gosec // TLS raises the minimum version
		ConnState: s.note, IdleTimeout: callerIdle, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
	}
	srv.Protocols.SetHTTP1(true)
	s.certificates.TLS(srv.TLSConfig)
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }()
	s.listens.Store(true)
	select {
	case err := <-done:
		return fmt.Errorf("serve the API server: %w", err)
	case <-ctx.Done():
		_ = l.Close()
		s.dismiss()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if err := srv.Shutdown(end); err != nil {
			return errors.Join(fmt.Errorf("end requests of the API server: %w", err), srv.Close())
		}
		return nil
	}
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.ending:
		w.Header().Set("Connection", "close")
	default:
	}
	s.WebhookMux().ServeHTTP(w, r)
}

func (s *server) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew || state == http.StateIdle {
		s.unused[c] = true
	} else {
		delete(s.unused, c)
	}
}

// dismiss says farewell on unused connections and waits until their callers have closed them: to close them here, with a request
// just arriving, would reset the connection before the farewell is read.
func (s *server) dismiss() {
	s.mu.Lock()
	for c := range s.unused {
		go func() { // a peer that has not finished its handshake would be waited for
			_ = c.SetWriteDeadline(time.Now().Add(grace))
			if _, err := io.WriteString(c, farewell); err == nil {
				_ = c.(*tls.Conn).CloseWrite()
			}
		}()
	}
	s.mu.Unlock()
	for end := time.Now().Add(grace); s.left() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *server) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unused)
}
