package agent

import (
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/exposition"
	"github.com/tenantwire/tenantwire/sidecar/relay"
)

// The first three are named as the common WireGuard exporters name them, so that their dashboards work here.
var (
	peerLabels      = []string{"interface", "public_key", "allowed_ips"}
	metricSent      = counter("wireguard_sent_bytes_total", "WireGuard bytes sent to the peer.", peerLabels...)
	metricReceived  = counter("wireguard_received_bytes_total", "WireGuard bytes received from the peer.", peerLabels...)
	metricHandshake = gauge("wireguard_latest_handshake_seconds", "Unix time of the last handshake with the peer; 0: never.", peerLabels...)

	metricMTU = gauge("tenantwire_path_mtu_bytes",
		"How long packets inside the tunnel to the peer may be, by what is known of that. Not told by the datapath Kernel.", "interface", "public_key", "state")

	metricUp    = gauge("tenantwire_datapath_up", "1 while the data path is up.", "datapath")
	metricInfo  = gauge("tenantwire_datapath_info", "Always 1: the datapath that was asked for, the one that it is, and why.", "asked", "datapath", "why")
	metricBuild = gauge("tenantwire_build_info", "Always 1: the program's version, and that of Go it was built with.", "version", "go")
	metricOK    = gauge("tenantwire_config_applied", "1 while everything that was configured could be applied.")

	metricLookups = counter("tenantwire_endpoint_lookups_total", "Look-ups of endpoints that are given by name.", "result")

	metricNames   = counter("tenantwire_dns_lookups_total", "Names that were asked of a site's servers.", "result")
	metricLeftOut = counter("tenantwire_dns_left_out_total", "Addresses of names that are not behind an outside peer, and were left out.")

	metricDropped = counter("tenantwire_datapath_dropped_total",
		"Packets and handshake messages that the data path dropped, by reason. Kernel does not count what is refused before it is decrypted.", "reason")

	relayLabels       = []string{"direction", "name", "protocol"}
	metricOpen        = gauge("tenantwire_relay_open_connections", "TCP connections being carried.", relayLabels...)
	metricConnections = counter("tenantwire_relay_connections_total", "TCP connections carried.", relayLabels...)
	metricFlows       = gauge("tenantwire_relay_open_flows", "UDP flows being carried.", relayLabels...)
	metricFlowTotal   = counter("tenantwire_relay_flows_total", "UDP flows carried.", relayLabels...)
	metricUpBytes     = counter("tenantwire_relay_sent_bytes_total", "Payload bytes carried from the pod into the tunnel.", relayLabels...)
	metricDownBytes   = counter("tenantwire_relay_received_bytes_total", "Payload bytes carried from the tunnel into the pod.", relayLabels...)
	metricFailures    = counter("tenantwire_relay_failures_total", "Connections, flows and datagrams that failed, by reason.",
		append(relayLabels[:3:3], "reason")...)
)

func counter(name, help string, labels ...string) *exposition.Family {
	return &exposition.Family{Name: name, Help: help, Type: exposition.Counter, Labels: labels}
}

func gauge(name, help string, labels ...string) *exposition.Family {
	return &exposition.Family{Name: name, Help: help, Type: exposition.Gauge, Labels: labels}
}

// interfaceName is the label value of a tunnel that has no kernel interface.
const interfaceName = "wg0"

// scrapes is how many requests for metrics are answered at a time.
const scrapes = 2

// serveMetrics answers with the plane's metrics and the process's.
func (p *plane) serveMetrics() http.HandlerFunc {
	busy := make(chan struct{}, scrapes)
	return func(w http.ResponseWriter, _ *http.Request) {
		select {
		case busy <- struct{}{}:
			defer func() { <-busy }()
		default:
			http.Error(w, "metrics are being asked for already", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", exposition.ContentType)
		if err := p.metrics().Write(w); err == nil {
			metrics.WriteProcessMetrics(w)
		}
	}
}

// metrics reads device and relay; nothing is counted twice.
func (p *plane) metrics() *exposition.Text {
	text := &exposition.Text{}
	up, _ := p.up()
	text.Add(metricUp, asFloat(up), p.kind())
	text.Add(metricInfo, 1, p.chosen.asked, string(p.chosen.kind), p.chosen.why)
	text.Add(metricBuild, 1, p.version, runtime.Version())
	text.Add(metricOK, asFloat(p.healthy()))
	found, failed := p.endpoints.Counts()
	text.Add(metricLookups, float64(found), "found")
	text.Add(metricLookups, float64(failed), "failed")
	names := p.resolver.Counts()
	text.Add(metricNames, float64(names.Found), "found")
	text.Add(metricNames, float64(names.NotFound), "none")
	text.Add(metricNames, float64(names.Failed), "failed")
	text.Add(metricLeftOut, float64(names.LeftOut))
	peers, stats, ok := p.stats()
	if !ok {
		return text
	}
	addPeers(text, peers)
	for why, n := range p.drops() {
		text.Add(metricDropped, float64(n), why)
	}
	addRows(text, stats.Rows)
	return text
}

func addPeers(text *exposition.Text, peers []datapath.PeerStats) {
	for _, p := range peers {
		ips := make([]string, len(p.AllowedIPs))
		for i, a := range p.AllowedIPs {
			ips[i] = a.String()
		}
		l := []string{interfaceName, p.PublicKey.String(), strings.Join(ips, ",")}
		text.Add(metricSent, float64(p.TxBytes), l...)
		text.Add(metricReceived, float64(p.RxBytes), l...)
		text.Add(metricHandshake, unix(p.LastHandshake), l...)
		if p.MTUState != "" {
			text.Add(metricMTU, float64(p.PathMTU), interfaceName, p.PublicKey.String(), string(p.MTUState))
		}
	}
}

func addRows(text *exposition.Text, rows []relay.Row) {
	for _, r := range rows {
		l := []string{string(r.Direction), r.Name, string(r.Protocol)}
		text.Add(metricOpen, float64(r.Open), l...)
		text.Add(metricConnections, float64(r.Total), l...)
		text.Add(metricFlows, float64(r.Flows), l...)
		text.Add(metricFlowTotal, float64(r.FlowTotal), l...)
		text.Add(metricUpBytes, float64(r.Up), l...)
		text.Add(metricDownBytes, float64(r.Down), l...)
		for why, n := range r.Failures {
			text.Add(metricFailures, float64(n), append(l[:3:3], why.String())...)
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
