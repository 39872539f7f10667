package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// inquiry is what status is to show.
type inquiry struct {
	tunnel     string // empty: all
	form       string // listTable, listJSON or listYAML
	everywhere bool
	watch      bool
	live       bool
	interval   time.Duration // of figures: what rates are measured over
}

func (cs *commands) status() *cobra.Command {
	q := inquiry{}
	c := &cobra.Command{
		Use:   "status [TUNNEL]",
		Short: "Show tunnels with their members and peers, and what is wrong",
		Long: `Shows what the API server knows of the namespace's tunnels, or of one: whether they are accepted and ready, their members with
addresses and datapaths, their gateway, their peers and their Services' own addresses; and what is not as it should be, in sentences.

HANDSHAKE, RECEIVED and SENT are asked of the pods, through forwarded ports, where you have the right to create pods/portforward: peers' of the
active gateway or, in a tunnel without one, of its members. With --live=false no pod is asked.

The exit code is 0 if all is well, 2 if something is not, and 1 if it could not be found out, or if the command line is wrong. A peer that is
away is well, and so is one that was suspended or has expired.`,
		Example: `  kubectl tenantwire status
  kubectl tenantwire -n acme status net --watch
  kubectl tenantwire status -A -o json --live=false`,
		Annotations: map[string]string{usageFails: ""},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("unexpected argument %q", args[1])
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				q.tunnel = args[0]
			}
			if err := q.check(); err != nil {
				return err
			}
			return cs.showStatus(c.Context(), q)
		},
	}
	c.Flags().StringVarP(&q.form, "output", "o", listTable, "json or yaml, for programs")
	c.Flags().BoolVarP(&q.everywhere, "all-namespaces", "A", false, "tunnels of all namespaces")
	c.Flags().BoolVarP(&q.watch, "watch", "w", false, "go on, and show it anew when it changes")
	c.Flags().BoolVar(&q.live, "live", true, "ask the pods for handshakes and bytes")
	c.Flags().DurationVar(&q.interval, "interval", time.Second, "what rates are measured over, and with --watch how often pods are asked; 100ms to 1h")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return cs.tunnelNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	cs.complete(c, "output", func(context.Context) []string { return []string{listJSON, listYAML} })
	return c
}

func (q *inquiry) check() error {
	switch {
	case !slices.Contains([]string{listTable, listJSON, listYAML}, q.form):
		return usagef("--output: %q is not json or yaml", q.form)
	case q.interval < 100*time.Millisecond || q.interval > time.Hour:
		return usagef("--interval: %s is not 100ms to 1h", q.interval)
	}
	return nil
}

func (cs *commands) showStatus(ctx context.Context, q inquiry) error {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	asked := newAsker(n, q.live)
	defer asked.close()
	if q.everywhere {
		n.name = ""
	}
	if q.watch {
		return cs.watchStatus(ctx, n, q, asked)
	}
	o, err := n.look(ctx, q.tunnel)
	if err != nil {
		return err
	}
	r := makeReport(o, time.Now())
	if asked.figures(ctx, r) {
		select { // rates take two figures
		case <-time.After(q.interval):
			r = makeReport(o, time.Now())
			asked.figures(ctx, r)
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
	if err := r.print(cs.Out, q, time.Now()); err != nil {
		return err
	}
	if len(r.Tunnels)+len(r.Strays) == 0 && q.form == listTable {
		cs.say("no tunnels found%s", inNamespace(n.name))
	}
	return r.verdict()
}

func (r *report) verdict() error {
	if !r.Healthy {
		return answer{ExitUnhealthy}
	}
	return nil
}

func (r *report) print(w io.Writer, q inquiry, now time.Time) error {
	if q.form != listTable {
		return printValue(w, q.form, r)
	}
	return r.tables(w, q.everywhere, now)
}

// look reads the objects of the namespace, or of all for the name "". A tunnel that is named has to exist.
func (n *namespace) look(ctx context.Context, tunnel string) (*objects, error) {
	var tunnels v1alpha1.TenantTunnelList
	var members v1alpha1.TunnelMemberList
	var peers v1alpha1.TunnelPeerList
	for _, list := range []client.ObjectList{&tunnels, &members, &peers} {
		if err := n.client.List(ctx, list, client.InNamespace(n.name)); err != nil {
			return nil, fmt.Errorf("list the tunnels%s, with members and peers: %w", inNamespace(n.name), notInstalled(err))
		}
	}
	if tunnel != "" && !slices.ContainsFunc(tunnels.Items, func(t v1alpha1.TenantTunnel) bool { return t.Name == tunnel }) {
		if n.name == "" {
			return nil, fmt.Errorf("no namespace has a TenantTunnel %q", tunnel)
		}
		_, err := choose(tunnels.Items, tunnel, n.name)
		return nil, err
	}
	o := &objects{tunnels: tunnels.Items, members: members.Items, peers: peers.Items, tunnel: tunnel}
	return o, n.lookServices(ctx, o)
}

// lookServices finds gateways' Services, each by its name, of tunnels that have one. Who may not read Services is not told endpoints.
func (n *namespace) lookServices(ctx context.Context, o *objects) error {
	for i := range o.tunnels {
		t := &o.tunnels[i]
		if t.Spec.Gateway == nil || len(t.Spec.Gateway.Endpoints) > 0 || o.tunnel != "" && t.Name != o.tunnel {
			continue
		}
		var s corev1.Service
		switch err := n.client.Get(ctx, client.ObjectKey{Namespace: t.Namespace, Name: tenant.GatewayName(t.Name)}, &s); {
		case err == nil:
			o.services = append(o.services, s)
		case apierrors.IsForbidden(err):
			o.notes = append(o.notes, fmt.Sprintf("endpoints of gateways: the right to get services is missing in namespace %s", t.Namespace))
			return nil
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("find the Service of tunnel %s: %w", t.Name, err)
		}
	}
	return nil
}
