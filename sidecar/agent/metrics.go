package agent

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The first three are named as the common WireGuard exporters name them, so that their dashboards work here.
var (
	descSent = prometheus.NewDesc("wireguard_sent_bytes_total", "WireGuard bytes sent to the peer.",
		[]string{"interface", "public_key", "allowed_ips"}, nil)
	descReceived = prometheus.NewDesc("wireguard_received_bytes_total", "WireGuard bytes received from the peer.",
		[]string{"interface", "public_key", "allowed_ips"}, nil)
	descHandshake = prometheus.NewDesc("wireguard_latest_handshake_seconds", "Unix time of the last handshake with the peer; 0: never.",
		[]string{"interface", "public_key", "allowed_ips"}, nil)
	descUp   = prometheus.NewDesc("tenantwire_datapath_up", "1 while the data path is up.", []string{"datapath"}, nil)
	descInfo = prometheus.NewDesc("tenantwire_datapath_info", "Always 1: the datapath that was asked for, the one that it is, and why.",
		[]string{"asked", "datapath", "why"}, nil)
	descOK = prometheus.NewDesc("tenantwire_config_applied", "1 while everything that was configured could be applied.", nil, nil)

	descLookups = prometheus.NewDesc("tenantwire_endpoint_lookups_total", "Look-ups of endpoints that are given by name.", []string{"result"}, nil)

	descNames   = prometheus.NewDesc("tenantwire_dns_lookups_total", "Names that were asked of a site's servers.", []string{"result"}, nil)
	descLeftOut = prometheus.NewDesc("tenantwire_dns_left_out_total", "Addresses of names that are not behind an outside peer, and were left out.", nil, nil)

	descDropped = prometheus.NewDesc("tenantwire_datapath_dropped_total",
		"Packets and handshake messages that the data path dropped, by reason. Not counted by the datapath Kernel.", []string{"reason"}, nil)

	relayLabels     = []string{"direction", "name", "protocol"}
	descOpen        = prometheus.NewDesc("tenantwire_relay_open_connections", "TCP connections being carried.", relayLabels, nil)
	descConnections = prometheus.NewDesc("tenantwire_relay_connections_total", "TCP connections carried.", relayLabels, nil)
	descFlows       = prometheus.NewDesc("tenantwire_relay_open_flows", "UDP flows being carried.", relayLabels, nil)
	descFlowTotal   = prometheus.NewDesc("tenantwire_relay_flows_total", "UDP flows carried.", relayLabels, nil)
	descUpBytes     = prometheus.NewDesc("tenantwire_relay_sent_bytes_total", "Payload bytes carried from the pod into the tunnel.", relayLabels, nil)
	descDownBytes   = prometheus.NewDesc("tenantwire_relay_received_bytes_total", "Payload bytes carried from the tunnel into the pod.", relayLabels, nil)
	descFailures    = prometheus.NewDesc("tenantwire_relay_failures_total", "Connections, flows and datagrams that failed, by reason.",
		append(relayLabels[:3:3], "reason"), nil)
)

// interfaceName is the label value of a tunnel that has no kernel interface.
const interfaceName = "wg0"

// collector reads the plane when it is scraped; nothing is counted twice.
type collector struct{ plane *plane }

// Describe declares nothing beforehand: the series depend on peers and forwards.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads device and relay.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, l ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, l...)
	}
	counter := func(d *prometheus.Desc, v float64, l ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, l...)
	}
	up, _ := c.plane.up()
	gauge(descUp, asFloat(up), c.plane.kind())
	gauge(descInfo, 1, c.plane.chosen.asked, string(c.plane.chosen.kind), c.plane.chosen.why)
	gauge(descOK, asFloat(c.plane.healthy()))
	found, failed := c.plane.endpoints.Counts()
	counter(descLookups, float64(found), "found")
	counter(descLookups, float64(failed), "failed")
	names := c.plane.resolver.Counts()
	counter(descNames, float64(names.Found), "found")
	counter(descNames, float64(names.NotFound), "none")
	counter(descNames, float64(names.Failed), "failed")
	counter(descLeftOut, float64(names.LeftOut))
	peers, stats, ok := c.plane.stats()
	if !ok {
		return
	}
	for _, p := range peers {
		ips := make([]string, len(p.AllowedIPs))
		for i, a := range p.AllowedIPs {
			ips[i] = a.String()
		}
		l := []string{interfaceName, p.PublicKey.String(), strings.Join(ips, ",")}
		counter(descSent, float64(p.TxBytes), l...)
		counter(descReceived, float64(p.RxBytes), l...)
		gauge(descHandshake, unix(p.LastHandshake), l...)
	}
	for why, n := range c.plane.drops() {
		counter(descDropped, float64(n), why)
	}
	for _, r := range stats.Rows {
		l := []string{string(r.Direction), r.Name, string(r.Protocol)}
		gauge(descOpen, float64(r.Open), l...)
		counter(descConnections, float64(r.Total), l...)
		gauge(descFlows, float64(r.Flows), l...)
		counter(descFlowTotal, float64(r.FlowTotal), l...)
		counter(descUpBytes, float64(r.Up), l...)
		counter(descDownBytes, float64(r.Down), l...)
		for why, n := range r.Failures {
			counter(descFailures, float64(n), append(l[:3:3], why.String())...)
		}
	}
}

func asFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}
