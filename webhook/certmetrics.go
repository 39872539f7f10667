package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descExpiry = prometheus.NewDesc("tenantwire_certificate_expiry_timestamp_seconds",
		"Unix time at which the serving certificate of this replica expires.", nil, nil)
	descRenewal = prometheus.NewDesc("tenantwire_certificate_renewal_timestamp_seconds",
		"Unix time from which the operator makes the serving certificate of this replica anew, before it expires.", nil, nil)
)

// certificateTimes tells of a certificate at the moment of the scrape.
type certificateTimes struct{ expires, renews func() time.Time }

// CertificateCollector is the metrics of Certificates.Expires and Renews; there is none of what is zero.
func CertificateCollector(expires, renews func() time.Time) prometheus.Collector {
	return certificateTimes{expires, renews}
}

// Describe declares the metrics.
func (certificateTimes) Describe(ch chan<- *prometheus.Desc) {
	ch <- descExpiry
	ch <- descRenewal
}

// Collect asks.
func (c certificateTimes) Collect(ch chan<- prometheus.Metric) {
	for desc, at := range map[*prometheus.Desc]time.Time{descExpiry: c.expires(), descRenewal: c.renews()} {
		if !at.IsZero() {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.Unix()))
		}
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

// Renews is when the leader is to make another; zero: that is not ours to do, or there is none yet.
func (c *Certificates) Renews() time.Time {
	at := c.Expires()
	if at.IsZero() || c.options.Source != CertRotated {
		return time.Time{}
	}
	return at.Add(-renewAhead)
}
