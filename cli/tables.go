package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// tables prints a report for people: tunnels, members, peers, Services, then what is wrong, worth knowing, and could not be found out.
func (r *report) tables(w io.Writer, everywhere bool, now time.Time) error {
	var tunnels, members, peers, services [][]string
	for i := range r.Tunnels {
		t := &r.Tunnels[i]
		tunnels = append(tunnels, t.row())
		for j := range t.Members {
			members = append(members, append([]string{t.Namespace}, t.Members[j].row(t, now)...))
		}
		for j := range t.Peers {
			peers = append(peers, t.Peers[j].row(now))
		}
		for _, s := range t.Services {
			services = append(services, s.row(t))
		}
	}
	for i := range r.Strays {
		peers = append(peers, r.Strays[i].row(now))
	}
	var b strings.Builder
	for _, t := range []struct {
		heads []string
		rows  [][]string
	}{
		{[]string{"NAMESPACE", "TUNNEL", "ACCEPTED", "READY", "UP", "DATAPATHS", "GATEWAY", "ENDPOINT"}, tunnels},
		{[]string{"NAMESPACE", "MEMBER", "TUNNEL", "READY", "DATAPATH", "ADDRESSES", "HANDSHAKE", "RECEIVED", "SENT"}, members},
		{[]string{"NAMESPACE", "PEER", "TUNNEL", "ACCEPTED", "CONNECTED", "ADDRESSES", "ROUTES", "HANDSHAKE", "RECEIVED", "SENT"}, peers},
		{[]string{"NAMESPACE", "SERVICE", "TUNNEL", "NAME", "ADDRESSES"}, services},
	} {
		if len(t.rows) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		writeTable(&b, t.heads, t.rows, everywhere)
	}
	sentences(&b, "Not as it should be:", r.Problems)
	sentences(&b, "Worth knowing:", r.Remarks)
	sentences(&b, "Not shown:", r.Notes)
	_, err := io.WriteString(w, b.String())
	return err
}

// sentences prints them below a head.
func sentences(b *strings.Builder, head string, all []string) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", head)
	for _, s := range all {
		fmt.Fprintf(b, "- %s\n", s)
	}
}

// writeTable leaves out the first column, the namespace, unless everywhere.
func writeTable(w io.Writer, heads []string, rows [][]string, everywhere bool) {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, row := range slices.Insert(slices.Clone(rows), 0, heads) {
		if !everywhere {
			row = row[1:]
		}
		cells := make([]string, len(row))
		for i, c := range row {
			cells[i] = cmp.Or(c, "-")
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	_ = t.Flush() // into memory
}

func (t *tunnelReport) row() []string {
	kinds := make([]string, 0, len(t.Counts.Datapaths))
	for _, k := range slices.Sorted(maps.Keys(t.Counts.Datapaths)) {
		kinds = append(kinds, fmt.Sprintf("%s:%d", k, t.Counts.Datapaths[k]))
	}
	row := []string{t.Namespace, t.Name, t.Accepted.word(), t.Ready.word(), fmt.Sprintf("%d/%d", t.Counts.Ready, t.Counts.Members), strings.Join(kinds, ","), "", ""}
	if g := t.Gateway; g != nil {
		row[6], row[7] = cmp.Or(g.Active, "none active"), g.Endpoint
	}
	return row
}

func (m *memberReport) row(t *tunnelReport, now time.Time) []string {
	ready := m.Ready.word()
	if m.Role == v1alpha1.RoleGateway {
		if ready = "standby"; t.Gateway != nil && t.Gateway.Active == m.Pod {
			ready = "active"
		}
	}
	return append([]string{m.Pod, t.Name, ready, m.Datapath, strings.Join(m.Addresses, ",")}, m.Live.cells(now)...)
}

func (p *peerReport) row(now time.Time) []string {
	accepted, connected := p.Accepted.word(), ""
	if p.Connected != nil {
		connected = p.Connected.word()
	}
	return append([]string{p.Namespace, p.Name, p.Tunnel, accepted, connected, strings.Join(p.Addresses, ","), routesAsSeen(p.Routes, p.Mappings)}, p.Live.cells(now)...)
}

// cells are HANDSHAKE, RECEIVED and SENT.
func (l *live) cells(now time.Time) []string {
	if l == nil {
		return []string{"", "", ""}
	}
	return []string{cmp.Or(moment(l.LastHandshake, now), "never"), carried(l.RxBytes, l.RxRate), carried(l.TxBytes, l.TxRate)}
}

func carried(n uint64, rate *float64) string {
	if rate == nil || *rate == 0 {
		return wgBytes(n)
	}
	return fmt.Sprintf("%s (%s/s)", wgBytes(n), wgBytes(uint64(*rate)))
}

// word is True or else, in one word, why not.
func (v verdict) word() string {
	if v.Status == metav1.ConditionTrue || v.Reason == "" || v.Reason == string(tenant.ReasonIdle) {
		return string(v.Status)
	}
	return v.Reason
}
