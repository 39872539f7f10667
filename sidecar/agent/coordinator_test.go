package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// authority is a certificate and what trusts it.
type authority struct {
	pem  []byte
	cert tls.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	must(t, err)
	return &authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}}
}

// coordinator is a fake of the control plane that does as the test says.
type coordinator struct {
	server  *httptest.Server
	cert    atomic.Pointer[authority]
	streams chan *stream // each watch as it is opened
	reports chan wire.Report

	mu            sync.Mutex
	registrations []wire.Registration
	tokens        []string
	protocols     []string
	answer        map[string][]int // statuses to answer first, by path
}

// stream is one open watch.
type stream struct {
	revision string
	lines    chan string
	end      chan struct{}
	over     <-chan struct{} // the member has gone
}

func newCoordinator(t *testing.T) *coordinator {
	t.Helper()
	c := &coordinator{streams: make(chan *stream, 16), reports: make(chan wire.Report, 64), answer: map[string][]int{}}
	c.cert.Store(newAuthority(t))
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.RegisterPath, c.register)
	mux.HandleFunc("POST "+wire.ReportPath, func(w http.ResponseWriter, r *http.Request) {
		var report wire.Report
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.reports <- report
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET "+wire.WatchPath, c.watch)
	c.server = httptest.NewUnstartedServer(c.meter(mux))
	c.server.EnableHTTP2 = true
	c.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	c.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{c.cert.Load().cert}}, nil
	}}
	c.server.StartTLS()
	t.Cleanup(func() {
		c.server.CloseClientConnections()
		c.server.Close()
	})
	return c
}

// meter notes who asks and answers what the test has prepared.
func (c *coordinator) meter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.tokens = append(c.tokens, r.Header.Get("Authorization"))
		c.protocols = append(c.protocols, fmt.Sprintf("%s TLS %x", r.Proto, r.TLS.Version))
		code := 0
		if a := c.answer[r.URL.Path]; len(a) > 0 {
			code, c.answer[r.URL.Path] = a[0], a[1:]
		}
		c.mu.Unlock()
		if code != 0 {
			http.Error(w, "as the test says", code)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *coordinator) register(w http.ResponseWriter, r *http.Request) {
	var reg wire.Registration
	if err := json.NewDecoder(r.Body).Decode(&reg); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	reg.Join = nil // times, which no two have in common
	c.registrations = append(c.registrations, reg)
	c.mu.Unlock()
	_ = json.NewEncoder(w).Encode(wire.Registered{Tunnel: "test", Addresses: []netip.Prefix{memberAddress}})
}

func (c *coordinator) watch(w http.ResponseWriter, r *http.Request) {
	s := &stream{r.URL.Query().Get("revision"), make(chan string), make(chan struct{}), r.Context().Done()}
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	c.streams <- s
	for {
		select {
		case line := <-s.lines:
			_, _ = io.WriteString(w, line)
			_ = http.NewResponseController(w).Flush()
		case <-s.end:
			return
		case <-s.over:
			return
		}
	}
}

// next waits for the next watch and wants it to ask for a revision.
func (c *coordinator) next(t *testing.T, revision string) *stream {
	t.Helper()
	select {
	case s := <-c.streams:
		if s.revision != revision {
			t.Fatalf("the watch asks for revision %q, want %q", s.revision, revision)
		}
		return s
	case <-time.After(patience):
		t.Fatal("no watch was opened")
	}
	return nil
}

// reported waits for a report of the given readiness.
func (c *coordinator) reported(t *testing.T, ready bool) wire.Report {
	t.Helper()
	for {
		select {
		case r := <-c.reports:
			if r.Ready == ready {
				return r
			}
		case <-time.After(patience):
			t.Fatalf("nobody reported ready=%v", ready)
		}
	}
}

// registered is how often a member registered.
func (c *coordinator) registered() []wire.Registration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]wire.Registration(nil), c.registrations...)
}

func (c *coordinator) prepare(path string, codes ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer[path] = codes
}

func (s *stream) raw(t *testing.T, text string) {
	t.Helper()
	select {
	case s.lines <- text:
	case <-s.over:
		t.Fatal("the member has closed the watch")
	case <-time.After(patience):
		t.Fatal("the stream takes no more")
	}
}

func (s *stream) send(t *testing.T, events ...wire.Event) {
	t.Helper()
	for _, e := range events {
		b, err := json.Marshal(e)
		must(t, err)
		s.raw(t, string(b)+"\n")
	}
}

func snapshot(c wire.Config) wire.Event {
	return wire.Event{Type: wire.Snapshot, To: c.Revision(), Config: &c}
}

func delta(from, to wire.Config) wire.Event {
	d := wire.Diff(from, to)
	return wire.Event{Type: wire.DeltaType, From: from.Revision(), To: to.Revision(), Delta: &d}
}
