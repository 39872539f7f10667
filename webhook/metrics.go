package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/tenantwire/tenantwire/injector"
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

func init() {
	metrics.Registry.MustRegister(decisions, durations)
	for _, r := range injector.Reasons() { // from zero: an alert on a rate would miss the first one otherwise
		decisions.WithLabelValues(string(injector.OutcomeOf(r)), string(r))
	}
}

func observe(d decided, took time.Duration) {
	decisions.WithLabelValues(string(d.Outcome), string(d.Reason)).Inc()
	durations.Observe(took.Seconds())
}
