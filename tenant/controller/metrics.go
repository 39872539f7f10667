package controller

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

var (
	descCondition = prometheus.NewDesc("tenantwire_tunnel_condition",
		"1 while the tunnel's condition is True, 0 otherwise. Told by the leader.", []string{"namespace", "tunnel", "condition"}, nil)
	descMembers = prometheus.NewDesc("tenantwire_tunnel_members",
		"Members of the tunnel by state. Told by the leader.", []string{"namespace", "tunnel", "state"}, nil)
)

// tunnelConditions are those that are told: a condition that a tunnel does not have yet is 0.
var tunnelConditions = []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionReady}

// collectTimeout bounds how long a scrape waits for the cache, which is in memory.
const collectTimeout = 5 * time.Second

// tunnels tells of what the tunnels' statuses say when it is scraped: four series a tunnel, of the leader alone, so that none is told twice.
type tunnels struct {
	reader client.Reader
	leads  <-chan struct{}
}

// NewCollector is the metrics of the tunnels that a cache holds, from when leads is closed on.
func NewCollector(cache client.Reader, leads <-chan struct{}) prometheus.Collector {
	return &tunnels{cache, leads}
}

// Describe declares both metrics.
func (c *tunnels) Describe(ch chan<- *prometheus.Desc) { ch <- descCondition; ch <- descMembers }

// Collect lists the tunnels. Where that is not possible, the manager is starting or stopping, and there is nothing to tell.
func (c *tunnels) Collect(ch chan<- prometheus.Metric) {
	select {
	case <-c.leads:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	var list v1alpha1.TenantTunnelList
	if err := c.reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return
	}
	gauge := func(d *prometheus.Desc, v int32, t *v1alpha1.TenantTunnel, what string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), t.Namespace, t.Name, what)
	}
	for i := range list.Items {
		t := &list.Items[i]
		for _, kind := range tunnelConditions {
			v := int32(0)
			if meta.IsStatusConditionTrue(t.Status.Conditions, kind) {
				v = 1
			}
			gauge(descCondition, v, t, kind)
		}
		var ready, total int32
		if m := t.Status.Members; m != nil {
			ready, total = m.Ready, m.Total
		}
		gauge(descMembers, ready, t, "Ready")
		gauge(descMembers, total-ready, t, "NotReady")
	}
}
