package operator

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/controller"
	"github.com/tenantwire/tenantwire/webhook"
)

// registerMetrics publishes what is read when it is scraped. docs/metrics.md lists every metric.
func registerMetrics(r prometheus.Registerer, cache client.Reader, leads <-chan struct{}, expires func() time.Time) error {
	for _, c := range []prometheus.Collector{controller.NewCollector(cache, leads), webhook.ExpiryCollector(expires)} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}
