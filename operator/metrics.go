package operator

import (
	"fmt"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/controller"
)

// registerMetrics publishes what is read when it is scraped. docs/metrics.md lists every metric.
func registerMetrics(r prometheus.Registerer, cache client.Reader, leads <-chan struct{}, certs prometheus.Collector, version string) error {
	for _, c := range []prometheus.Collector{controller.NewCollector(cache, leads), certs, buildInfo(version)} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// buildInfo says which version this replica is: while they are replaced there are two.
func buildInfo(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tenantwire_build_info", Help: "Always 1: the program's version, and that of Go it was built with.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()}}, func() float64 { return 1 })
}
