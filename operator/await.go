package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

// How the API server is waited for.
const (
	askEvery   = 500 * time.Millisecond
	askTimeout = 5 * time.Second
)

// awaitCluster returns when the API server answers. A replica that lost its lease together with the API server starts before that is
// back; were it to end then, the kubelet would start it later and later, and it would be away long after its API server. Meanwhile
// it is alive (/healthz) and not ready.
func awaitCluster(ctx context.Context, cfg *rest.Config, o Options) error {
	cfg = rest.CopyConfig(cfg)
	cfg.Timeout = askTimeout
	c, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	err = answers(c)
	if err == nil {
		return nil
	}
	o.Log.Info("waiting for the API server", "why", err.Error())
	stop, err := serveLiveness(ctx, o.HealthAddress)
	if err != nil {
		return err
	}
	defer stop()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server: %w", ctx.Err())
		case <-tick.C:
			if answers(c) == nil {
				o.Log.Info("the API server answers")
				return nil
			}
		}
	}
}

// answers says whether the API server is there. That it refuses us is an answer too, and not one that waiting changes.
func answers(c discovery.ServerVersionInterface) error {
	_, err := c.ServerVersion()
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code/100 == 4 {
		return nil
	}
	return err
}

// serveLiveness answers the kubelet's liveness probe until stop is called; the manager takes the address over then.
func serveLiveness(ctx context.Context, address string) (stop func(), err error) {
	if address == "" || address == "0" { // as the manager has it: none
		return func() {}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for health probes on %s: %w", address, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "waiting for the API server") })
	s := &http.Server{Handler: mux, ReadHeaderTimeout: askTimeout}
	go func() { _ = s.Serve(l) }() // ends with Close, and there is nobody to tell of another end
	return func() { _ = s.Close() }, nil
}
