package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var descExpiry = prometheus.NewDesc("tenantwire_certificate_expiry_timestamp_seconds",
	"Unix time at which the serving certificate of this replica expires.", nil, nil)

// expiry says when a certificate expires at the moment of the scrape.
type expiry func() time.Time

// ExpiryCollector is the metric of Certificates.Expires; there is none while there is no certificate.
func ExpiryCollector(expires func() time.Time) prometheus.Collector { return expiry(expires) }

// Describe declares the metric.
func (e expiry) Describe(ch chan<- *prometheus.Desc) { ch <- descExpiry }

// Collect asks.
func (e expiry) Collect(ch chan<- prometheus.Metric) {
	if until := e(); !until.IsZero() {
		ch <- prometheus.MustNewConstMetric(descExpiry, prometheus.GaugeValue, float64(until.Unix()))
	}
}

// Expires is when the serving certificate does; zero: there is none yet.
func (c *Certificates) Expires() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.cert == nil {
		return time.Time{}
	}
	return c.cert.Leaf.NotAfter
}
