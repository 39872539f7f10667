package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	decisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tenantwire_injection_decisions_total",
		Help: "Decisions on pods by outcome (Inject, Skip, Deny) and reason.",
	}, []string{"outcome", "reason"})
	durations = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "tenantwire_injection_duration_seconds",
		Help:    "Time from a decoded admission request to its decision.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16), // 0.1 ms to 3.3 s
	})
)

func init() { metrics.Registry.MustRegister(decisions, durations) }

func observe(d decided, took time.Duration) {
	decisions.WithLabelValues(string(d.Outcome), string(d.Reason)).Inc()
	durations.Observe(took.Seconds())
}
