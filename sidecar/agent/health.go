package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// health serves /healthz (the process runs), /readyz (the data path is up, or about to be), /metrics and, on loopback, the device.
type health struct {
	server *http.Server
	done   chan struct{}
}

// listenHealth starts serving; an empty address serves nothing.
func listenHealth(addr string, p *plane) (*health, error) {
	if addr == "" {
		return &health{}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for health probes on %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ready, why := p.ready()
		if !ready {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, cmp.Or(why, "data path up"))
		if why == aboutToTakeOver && p.foretold != nil {
			p.foretold()
		}
	})
	mux.HandleFunc("GET "+wire.DevicePath, p.serveDevice)
	mux.Handle("GET /metrics", p.serveMetrics())
	if p.diagnosis != nil {
		mux.HandleFunc("GET "+wire.DiagnosePath, p.diagnosis)
	}
	mux.HandleFunc("POST "+wire.CapturePath, p.debugPath(p.serveCapture))
	mux.HandleFunc("POST "+wire.BenchSelfPath, p.debugPath(p.serveBenchSelf))
	mux.HandleFunc("POST "+wire.BenchDoorPath, p.debugPath(p.serveBenchDoor))
	mux.HandleFunc("POST "+wire.BenchRunPath, p.debugPath(p.serveBenchRun))
	h := &health{done: make(chan struct{}), server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}}
	go func() {
		defer close(h.done)
		if err := h.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("health endpoint ended", "error", err.Error())
		}
	}()
	return h, nil
}

func (h *health) close() {
	if h.server != nil {
		_ = h.server.Close()
		<-h.done
	}
}
