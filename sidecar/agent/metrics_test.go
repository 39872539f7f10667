package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tenantwire/tenantwire/manifests/catalogue"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// TestMetricsAreInTheCatalogue: members and gateways, which are agents both, export what docs/metrics.md says, with these labels, and
// nothing else of ours. One connection fails before, as a failure is counted from the first on.
func TestMetricsAreInTheCatalogue(t *testing.T) {
	var p *plane
	l := newLab(t)
	l.start(t, func(m *member) { p = m.plane })
	s := l.c.next(t, "")
	c := l.config()
	c.Inbound = []wire.Port{{Port: freePort(t, "tcp"), Protocol: wire.TCP}} // nobody listens there
	s.send(t, snapshot(c))
	l.c.reported(t, true)
	var families []*dto.MetricFamily
	eventually(t, "a failure", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if conn, err := l.far.DialTCP(ctx, netip.AddrPortFrom(memberAddress.Addr(), c.Inbound[0].Port)); err == nil {
			_ = conn.Close()
		}
		families = scrape(t, p)
		for _, f := range families {
			if f.GetName() == "tenantwire_relay_failures_total" {
				return nil
			}
		}
		return errors.New("none is counted")
	})
	all, err := catalogue.Read()
	must(t, err)
	for _, program := range []string{"sidecar", "gateway"} {
		for _, problem := range catalogue.Check(all, program, families) {
			t.Error(problem)
		}
	}
	checkValues(t, families)
	l.stop(t)
}

// scrape is what p's handler answers, as Prometheus reads it.
func scrape(t *testing.T, p *plane) (families []*dto.MetricFamily) {
	t.Helper()
	answer := httptest.NewRecorder()
	p.serveMetrics()(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(answer.Body)
	must(t, err)
	for _, f := range all {
		families = append(families, f)
	}
	return families
}

// checkValues: what docs/metrics.md says that a label may be is all that it can be. Failures are counted from the first on, so that
// their reasons are the relay's own list.
func checkValues(t *testing.T, families []*dto.MetricFamily) {
	t.Helper()
	listed, err := catalogue.Values()
	must(t, err)
	var reasons []string
	for _, r := range relay.Reasons() {
		reasons = append(reasons, r.String())
	}
	slices.Sort(reasons)
	for label, got := range map[string][]string{
		"reason, of drops":          catalogue.Exported(families, "tenantwire_datapath_dropped_total", "reason"),
		"reason, of relay failures": reasons,
		"result":                    catalogue.Exported(families, "tenantwire_dns_lookups_total", "result"),
	} {
		if !slices.Equal(got, listed[label]) {
			t.Errorf("%s: exported are %q, in docs/metrics.md %q", label, got, listed[label])
		}
	}
	for _, result := range catalogue.Exported(families, "tenantwire_endpoint_lookups_total", "result") {
		if !slices.Contains(listed["result"], result) {
			t.Errorf("result: %q is not in docs/metrics.md", result)
		}
	}
}
