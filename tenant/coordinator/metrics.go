package coordinator

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Metrics of the coordinator.
type Metrics struct {
	requests *prometheus.CounterVec
	events   *prometheus.CounterVec
	watches  prometheus.Gauge
	plans    prometheus.Counter
}

// NewMetrics makes the metrics; Register publishes them.
func NewMetrics() *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantwire_coordinator_requests_total", Help: "Requests of members by path and HTTP status code."}, []string{"path", "code"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tenantwire_coordinator_events_total", Help: "Events sent to members by type."}, []string{"type"}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tenantwire_coordinator_watches", Help: "Members that hold a stream open on this replica."}),
		plans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tenantwire_coordinator_plans_total", Help: "Times that a tunnel was planned."}),
	}
	for _, e := range []wire.EventType{wire.Snapshot, wire.DeltaType, wire.Heartbeat, wire.Gone} { // from zero, as a rate misses the first one otherwise
		m.events.WithLabelValues(string(e))
	}
	for _, path := range []string{wire.RegisterPath, wire.ReportPath, wire.WatchPath, wire.PeersPath} {
		m.requests.WithLabelValues(path, "200")
	}
	return m
}

// Register publishes the metrics.
func (m *Metrics) Register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.requests, m.events, m.watches, m.plans} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}
