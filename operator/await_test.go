package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
)

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func serve(t *testing.T, address string, h http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// TestAwaitCluster: with no API server the operator is alive, not ready, and goes on once there is one, whatever that thinks of it.
func TestAwaitCluster(t *testing.T) {
	for name, code := range map[string]int{"answers": http.StatusOK, "refuses us": http.StatusForbidden} {
		t.Run(name, func(t *testing.T) {
			api, health := freeAddress(t), freeAddress(t)
			done := make(chan error, 1)
			go func() {
				done <- awaitCluster(t.Context(), &rest.Config{Host: "http://" + api}, Options{HealthAddress: health, Log: logr.Discard()})
			}()
			for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
				alive, err := status("http://" + health + "/healthz")
				if err == nil && alive == http.StatusOK {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("not alive while it waits: %d, %v", alive, err)
				}
			}
			if ready, err := status("http://" + health + "/readyz"); err != nil || ready < 400 {
				t.Errorf("ready while it waits: %d, %v", ready, err)
			}
			select {
			case err := <-done:
				t.Fatalf("went on without an API server: %v", err)
			default:
			}
			serve(t, api, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(code)
				_, _ = fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure"}`)
			})
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if l, err := net.Listen("tcp", health); err != nil {
				t.Errorf("the health address is not free for the manager: %v", err)
			} else {
				_ = l.Close()
			}
		})
	}
}

func TestAwaitClusterEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := awaitCluster(ctx, &rest.Config{Host: "http://" + freeAddress(t)}, Options{HealthAddress: "0", Log: logr.Discard()})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the context's end", err)
	}
}

func status(url string) (int, error) {
	r, err := http.Get(url)
	if err != nil {
		return 0, err
	}
	return r.StatusCode, r.Body.Close()
}
