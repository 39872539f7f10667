package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// complete offers words for a flag's value.
func (cs *commands) complete(c *cobra.Command, flag string, words func(context.Context) []string) {
	err := c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return words(c.Context()), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // unreachable: the flag is defined by the caller
	}
}

// hesitation is how long a shell waits for words from the cluster.
const hesitation = 3 * time.Second

// tunnelNames are the namespace's, none where they are not to be had.
func (cs *commands) tunnelNames(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, hesitation)
	defer cancel()
	n, err := cs.connect()
	if err != nil {
		return nil
	}
	var all v1alpha1.TenantTunnelList
	if err := n.client.List(ctx, &all, client.InNamespace(n.name)); err != nil {
		return nil
	}
	for i := range all.Items {
		names = append(names, all.Items[i].Name)
	}
	return names
}

// peerNames are the namespace's, none where they are not to be had.
func (cs *commands) peerNames(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, hesitation)
	defer cancel()
	n, err := cs.connect()
	if err != nil {
		return nil
	}
	all, err := n.peers(ctx)
	if err != nil {
		return nil
	}
	for i := range all {
		names = append(names, all[i].Name)
	}
	return names
}

// memberNames are the names of the namespace's pods that are in tunnels, none where they are not to be had.
func (cs *commands) memberNames(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, hesitation)
	defer cancel()
	n, err := cs.connect()
	if err != nil {
		return nil
	}
	var all v1alpha1.TunnelMemberList
	if err := n.client.List(ctx, &all, client.InNamespace(n.name)); err != nil {
		return nil
	}
	for i := range all.Items {
		names = append(names, all.Items[i].Name)
	}
	return names
}
