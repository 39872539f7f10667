// Command gateway is one pod of a tunnel's gateway, between the tunnel's members and its outside peers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantwire/tenantwire/tenant/gateway"
)

// version is set when a release is built.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		return 1
	}
	return 0
}

func command() *cobra.Command {
	var f gateway.Flags
	c := &cobra.Command{
		Use:   "gateway --coordinator URL --key-file FILE --lease NAME",
		Short: "One pod of a tunnel's gateway",
		Long: `Passes packets on between a tunnel's members and its outside peers, without privileges or, with the datapath TUN,
with an interface of its own.

The operator makes its pods for every TenantTunnel with spec.gateway, and sets the flags. One pod is active, as
the lease says; the others stand by. POD_IP, POD_NAME and POD_NAMESPACE say who it is.`,
		Version: version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := f.Options(version)
			if err != nil {
				return err
			}
			return gateway.RunInCluster(c.Context(), o)
		},
	}
	p := c.Flags()
	p.StringVar(&f.Coordinator, "coordinator", "", "https URL of the coordinator")
	p.StringVar(&f.TokenFile, "token-file", "/var/run/tenantwire/token", "service-account token with audience tenantwire.dev")
	p.StringVar(&f.CAFile, "ca-file", "/var/run/tenantwire/ca.crt", "certificates that sign the coordinator's")
	p.StringVar(&f.StateDir, "state-dir", "/var/lib/tenantwire", "memory-backed folder for the last configuration")
	p.StringVar(&f.KeyFile, "key-file", "", "the tunnel's private key")
	p.StringVar(&f.PresharedKeys, "preshared-keys", "", "folder with a file for each preshared key of the tunnel's peers")
	p.StringVar(&f.Lease, "lease", "", "name of the Lease in the pod's namespace that says which pod is active")
	p.StringVar(&f.Datapath, "datapath", "Netstack", "Auto, TUN or Netstack")
	p.StringVar(&f.DatapathWhy, "datapath-why", "", "why it is that datapath, where the operator chose it and not the tunnel")
	p.Uint16Var(&f.ListenPort, "listen-port", 51820, "outer UDP port")
	p.Uint16Var(&f.HealthPort, "health-port", 51821, "TCP port of /healthz, /readyz and /metrics")
	p.DurationVar(&f.Linger, "linger", 20*time.Second, "how long the active pod carries on at most after SIGTERM, while another may be starting")
	p.StringVar(&f.LogLevel, "log-level", "info", "debug, info, warn or error")
	p.StringVar(&f.LogFormat, "log-format", "json", "json or text")
	for _, name := range []string{"coordinator", "key-file", "lease"} {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // unreachable: the flag is defined above
		}
	}
	return c
}
