package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The forms of a list. The empty one is a table.
const (
	listTable = ""
	listWide  = "wide"
	listJSON  = "json"
	listYAML  = "yaml"
)

// listing is what peer list is to show.
type listing struct {
	form, tunnel string // an empty tunnel means any
	everywhere   bool
}

func (cs *commands) list() *cobra.Command {
	var l listing
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List peers, with what became of them",
		Long: `Lists peers: whether they take part, and if not why, and whether the gateway hears of them.

CONNECTED is True while the last handshake is younger than three minutes. LAST HANDSHAKE is the one when CONNECTED
changed last: it does not follow every handshake.`,
		Example: `  kubectl tenantwire peer list
  kubectl tenantwire peer list -A -o wide
  kubectl tenantwire peer list --tunnel net -o yaml`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains([]string{listTable, listWide, listJSON, listYAML}, l.form) {
				return usagef("--output: %q is not wide, json or yaml", l.form)
			}
			return cs.listPeers(c.Context(), l)
		},
	}
	c.Flags().StringVarP(&l.form, "output", "o", listTable, "wide: more columns; json or yaml: the objects")
	c.Flags().StringVar(&l.tunnel, "tunnel", "", "only peers of this tunnel")
	c.Flags().BoolVarP(&l.everywhere, "all-namespaces", "A", false, "peers of all namespaces")
	cs.complete(c, "tunnel", cs.tunnelNames)
	cs.complete(c, "output", func(context.Context) []string { return []string{listWide, listJSON, listYAML} })
	return c
}

func (cs *commands) listPeers(ctx context.Context, l listing) error {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	if l.everywhere {
		n.name = ""
	}
	all, err := n.peers(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(p v1alpha1.TunnelPeer) bool { return l.tunnel != "" && p.Spec.Tunnel != l.tunnel })
	slices.SortFunc(all, func(a, b v1alpha1.TunnelPeer) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	switch l.form {
	case listJSON, listYAML:
		return printObjects(cs.Out, l.form, all)
	}
	if len(all) == 0 {
		cs.say("no peers found%s", inNamespace(n.name))
		return nil
	}
	return printTable(cs.Out, l, all, time.Now())
}

func inNamespace(name string) string {
	if name == "" {
		return ""
	}
	return " in namespace " + name
}

func printObjects(w io.Writer, form string, all []v1alpha1.TunnelPeer) error {
	of := v1alpha1.TunnelPeerList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "TunnelPeerList"}, Items: make([]v1alpha1.TunnelPeer, 0, len(all))}
	for _, p := range all {
		p.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "TunnelPeer"}
		p.ManagedFields = nil
		of.Items = append(of.Items, p)
	}
	b, err := json.MarshalIndent(of, "", "  ")
	if form == listYAML {
		b, err = yaml.Marshal(of)
	}
	if err != nil {
		return fmt.Errorf("print peers: %w", err)
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(b), "\n"))
	return err
}

// column is one of the table.
type column struct {
	head string
	cell func(p *v1alpha1.TunnelPeer) string
}

func printTable(w io.Writer, l listing, all []v1alpha1.TunnelPeer, now time.Time) error {
	var columns []column
	if l.everywhere {
		columns = append(columns, column{"NAMESPACE", func(p *v1alpha1.TunnelPeer) string { return p.Namespace }})
	}
	columns = append(columns,
		column{"NAME", func(p *v1alpha1.TunnelPeer) string { return p.Name }},
		column{"TUNNEL", func(p *v1alpha1.TunnelPeer) string { return p.Spec.Tunnel }},
		column{"ADDRESSES", func(p *v1alpha1.TunnelPeer) string { return strings.Join(p.Status.Addresses, ",") }},
		column{"ROUTES", func(p *v1alpha1.TunnelPeer) string { return routesAsSeen(p.Spec.Routes, p.Spec.Mappings) }},
		column{"ACCEPTED", func(p *v1alpha1.TunnelPeer) string { return state(p, v1alpha1.ConditionAccepted) }},
		column{"CONNECTED", func(p *v1alpha1.TunnelPeer) string { return state(p, v1alpha1.ConditionConnected) }},
		column{"LAST HANDSHAKE", func(p *v1alpha1.TunnelPeer) string { return moment(p.Status.LastHandshake, now) }},
		column{"EXPIRES", func(p *v1alpha1.TunnelPeer) string { return moment(p.Spec.ExpiresAt, now) }},
		column{"AGE", func(p *v1alpha1.TunnelPeer) string {
			return duration.HumanDuration(now.Sub(p.CreationTimestamp.Time))
		}})
	if l.form == listWide {
		columns = append(columns,
			column{"PUBLIC KEY", func(p *v1alpha1.TunnelPeer) string { return p.Spec.PublicKey }},
			column{"ENDPOINT", func(p *v1alpha1.TunnelPeer) string { return p.Spec.Endpoint }},
			column{"PRESHARED KEY", presharedEntry})
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for i, c := range columns {
		fmt.Fprint(t, c.head, end(i, len(columns)))
	}
	for i := range all {
		for j, c := range columns {
			fmt.Fprint(t, cmp.Or(c.cell(&all[i]), "<none>"), end(j, len(columns)))
		}
	}
	return t.Flush()
}

// end is what comes after cell i of n.
func end(i, n int) string {
	if i == n-1 {
		return "\n"
	}
	return "\t"
}

func presharedEntry(p *v1alpha1.TunnelPeer) string {
	if p.Spec.PresharedKey == nil {
		return ""
	}
	return p.Spec.PresharedKey.SecretKey
}

// state is True or else, in one word, why not. What nobody has said anything of is empty.
func state(p *v1alpha1.TunnelPeer, condition string) string {
	c := meta.FindStatusCondition(p.Status.Conditions, condition)
	switch {
	case c == nil:
		return ""
	case c.Status == metav1.ConditionTrue, c.Reason == "", c.Reason == string(tenant.ReasonIdle):
		return string(c.Status)
	}
	return c.Reason
}

// moment is how far a time is away: ahead in some, or some ago.
func moment(at *metav1.Time, now time.Time) string {
	switch {
	case at == nil:
		return ""
	case at.After(now):
		return "in " + duration.HumanDuration(at.Sub(now))
	}
	return duration.HumanDuration(now.Sub(at.Time)) + " ago"
}
