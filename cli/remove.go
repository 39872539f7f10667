package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func (cs *commands) remove() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"remove", "delete"},
		Short: "Remove peers, with their preshared keys",
		Long: `Removes peers from their tunnels for good: their keys, addresses and routes are free again, and their configs worthless.

A preshared key that no other peer uses is removed too. Several are removed after a question, or not at all if
one of them does not exist. To take one out for a while, set its spec.state to Suspended.`,
		Example: `  kubectl tenantwire peer rm laptop
  kubectl tenantwire peer rm laptop phone --yes`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly("NAME")(c, args)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return cs.removePeers(c.Context(), args, yes) },
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask before several are removed")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		names := slices.DeleteFunc(cs.peerNames(c.Context()), func(s string) bool { return slices.Contains(args, s) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

func (cs *commands) removePeers(ctx context.Context, names []string, yes bool) error {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	all, err := n.peers(ctx)
	if err != nil {
		return err
	}
	slices.Sort(names)
	gone, err := pick(all, slices.Compact(names), n.name)
	if err != nil {
		return err
	}
	if len(gone) > 1 && !yes {
		if err := cs.confirm(fmt.Sprintf("Remove %d peers of namespace %s: %s?", len(gone), n.name, join(gone, peerName))); err != nil {
			return err
		}
	}
	var errs []error
	for i := range gone {
		errs = append(errs, cs.removePeer(ctx, n, &gone[i], entryOf(all, gone, &gone[i])))
	}
	return errors.Join(errs...)
}

// removePeer removes the entry last, so that no peer ever lacks its key.
func (cs *commands) removePeer(ctx context.Context, n *namespace, p *v1alpha1.TunnelPeer, entry string) error {
	if err := n.client.Delete(ctx, p, client.Preconditions{UID: &p.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete peer %s: %w", p.Name, err)
	}
	if entry != "" {
		if err := (presharedKeys{n, p.Spec.Tunnel}).remove(ctx, entry); err != nil {
			return fmt.Errorf("peer %s is removed, its preshared key is not: %w", p.Name, err)
		}
	}
	_, err := fmt.Fprintf(cs.Out, "peer %s removed from tunnel %s\n", p.Name, p.Spec.Tunnel)
	return err
}

// pick finds all that are named, or none.
func pick(all []v1alpha1.TunnelPeer, names []string, namespace string) ([]v1alpha1.TunnelPeer, error) {
	var found []v1alpha1.TunnelPeer
	var missing []string
	for _, name := range names {
		if i := slices.IndexFunc(all, func(p v1alpha1.TunnelPeer) bool { return p.Name == name }); i >= 0 {
			found = append(found, all[i])
		} else {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("namespace %s has no peer %s; nothing was removed (kubectl tenantwire peer list shows which there are)", namespace, strings.Join(missing, ", "))
	}
	return found, nil
}

// entryOf is the entry of a peer's preshared key, empty if it has none or another peer, which stays, uses the same.
func entryOf(all, gone []v1alpha1.TunnelPeer, p *v1alpha1.TunnelPeer) string {
	if p.Spec.PresharedKey == nil {
		return ""
	}
	for i := range all {
		o := &all[i]
		shared := o.Spec.Tunnel == p.Spec.Tunnel && o.Spec.PresharedKey != nil && *o.Spec.PresharedKey == *p.Spec.PresharedKey
		if shared && !slices.ContainsFunc(gone, func(g v1alpha1.TunnelPeer) bool { return g.UID == o.UID }) {
			return ""
		}
	}
	return p.Spec.PresharedKey.SecretKey
}

func peerName(p v1alpha1.TunnelPeer) string { return p.Name }

// confirm asks, and takes anything but yes for no.
func (cs *commands) confirm(question string) error {
	fmt.Fprintf(cs.Err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(cs.In).ReadString('\n')
	if err != nil {
		cs.say("")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was removed: the question was not answered with yes (--yes does without it)")
}
