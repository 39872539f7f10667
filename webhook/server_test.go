package webhook

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// backends are the replicas behind a Service, as a new connection sees them.
type backends struct {
	mu    sync.Mutex
	ports []int
}

func (b *backends) set(ports ...int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ports = ports
}

func (b *backends) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	b.mu.Lock()
	port := b.ports[rand.N(len(b.ports))]
	b.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// caller makes requests as API servers do: over HTTP/1.1, with their client's rules for connections and for trying again.
func caller(t *testing.T, c *Certificates, b *backends) *rest.RESTClient {
	t.Helper()
	cfg := &rest.Config{Host: "https://" + c.options.DNSNames()[0], QPS: -1, Dial: b.dial,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.CABundle(), NextProtos: []string{"http/1.1"}}}
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	r, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type testReplica struct {
	ctrlwebhook.Server
	port      int
	end, stop func()
	done      chan error
}

func startServer(t *testing.T, c *Certificates) *testReplica {
	t.Helper()
	ending, end := context.WithCancel(t.Context())
	ctx, stop := context.WithCancel(t.Context())
	port := freePort(t)
	r := &testReplica{Server: NewServer(c, "127.0.0.1", port, ending.Done()), port: port, end: end, stop: stop, done: make(chan error, 1)}
	r.Register(Path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.Proto)
	}))
	ready := r.StartedChecker()
	if ready(nil) == nil {
		t.Error("ready before it listens")
	}
	go func() { r.done <- r.Start(ctx) }()
	for ready(nil) != nil {
		select {
		case err := <-r.done:
			t.Fatalf("the server ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	return r
}

func withCertificate(t *testing.T) *Certificates {
	t.Helper()
	c := newTestCertificates(t, CertExternal)
	i := issue(t, c.options.DNSNames(), time.Hour)
	if err := c.accept(i.cert, i.key, i.ca); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestServerEndsWithoutAFailedRequest: replicas come and go under callers that keep connections, use them again after a while, and
// cannot repeat what they send. The endpoints move between being told to end and ending, as they do in a cluster.
func TestServerEndsWithoutAFailedRequest(t *testing.T) {
	c := withCertificate(t)
	b := &backends{}
	stays := startServer(t, c)
	api := caller(t, c, b)
	b.set(stays.port)

	ctx, halt := context.WithCancel(t.Context())
	var answered atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for ctx.Err() == nil {
				got, err := api.Post().AbsPath(Path).Body([]byte(strings.Repeat("pod", 1000))).DoRaw(t.Context())
				if err != nil || string(got) != "HTTP/1.1" {
					t.Errorf("after %d answers: %q, %v", answered.Load(), got, err)
					return
				}
				answered.Add(1)
				time.Sleep(rand.N(20 * time.Millisecond))
			}
		})
	}
	for range 10 {
		goes := startServer(t, c)
		b.set(stays.port, goes.port, goes.port, goes.port)
		for until := answered.Load() + 500; answered.Load() < until && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		goes.end()
		b.set(stays.port)
		time.Sleep(5 * time.Millisecond)
		goes.stop()
		if err := <-goes.done; err != nil {
			t.Errorf("a replica's end: %v", err)
		}
	}
	halt()
	wg.Wait()
	t.Logf("%d answered", answered.Load())
}

// TestServerLetsRequestsFinish: what is under way at the end is answered, and its connection closed.
func TestServerLetsRequestsFinish(t *testing.T) {
	c := withCertificate(t)
	r := startServer(t, c)
	arrived, release := make(chan struct{}), make(chan struct{})
	r.Register("/slow", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "done")
	}))
	b := &backends{}
	b.set(r.port)
	api := caller(t, c, b)
	got := make(chan string, 1)
	go func() {
		text, err := api.Post().AbsPath("/slow").DoRaw(t.Context())
		got <- fmt.Sprint(string(text), err)
	}()
	<-arrived
	r.end()
	r.stop()
	close(release)
	if text := <-got; text != "done<nil>" {
		t.Errorf("the request under way: %s", text)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}
