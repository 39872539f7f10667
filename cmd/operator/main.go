// Command operator is TenantWire's control plane: admission webhook, coordinator and controllers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/tenantwire/tenantwire/operator"
)

// version is set when a release is built.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // who cannot wait for a clean end signals again
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		return 1
	}
	return 0
}

func command() *cobra.Command {
	o := operator.DefaultOptions()
	o.Version = version
	var level, format string
	c := &cobra.Command{
		Use:   "operator",
		Short: "TenantWire's control plane",
		Long: `Injects WireGuard sidecars into the pods of opted-in namespaces and tells them their configuration.

Runs in the cluster with as many replicas as you like: each serves the webhook and the coordinator, one leads
the controllers. manifests/install.yaml installs it.`,
		Version: version, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := operator.NewLog(level, format)
			if err != nil {
				return err
			}
			o.Log = log
			cfg, err := ctrlconfig.GetConfig()
			if err != nil {
				return fmt.Errorf("find the cluster: %w", err)
			}
			return operator.Run(c.Context(), cfg, o)
		},
	}
	p := c.Flags()
	p.StringVar(&o.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "the operator's own namespace")
	p.StringVar(&o.SidecarImage, "sidecar-image", "", "image of the injected sidecar")
	p.StringVar(&o.GatewayImage, "gateway-image", "", "image of tunnels' gateways")
	p.StringVar(&o.ClusterDomain, "cluster-domain", o.ClusterDomain, "DNS domain of the cluster's Services")
	p.IntVar(&o.WebhookPort, "webhook-port", o.WebhookPort, "port of the admission webhook")
	p.IntVar(&o.CoordinatorPort, "coordinator-port", o.CoordinatorPort, "port of the coordinator")
	p.StringVar(&o.MetricsAddress, "metrics-address", o.MetricsAddress, "address of /metrics; 0 is off")
	p.StringVar(&o.HealthAddress, "health-address", o.HealthAddress, "address of /healthz and /readyz")
	p.StringVar(&o.CertSource, "cert-source", o.CertSource, "rotated: made and renewed by the operator; external: files in --cert-dir")
	p.StringVar(&o.CertDir, "cert-dir", o.CertDir, "folder of tls.crt, tls.key and ca.crt")
	p.BoolVar(&o.LeaderElect, "leader-elect", o.LeaderElect, "elect a leader among replicas for the controllers")
	p.DurationVar(&o.ShutdownDelay, "shutdown-delay", o.ShutdownDelay, "how long to serve on after SIGTERM, while requests find their way to other replicas")
	p.StringVar(&o.PodSecurityDefault, "pod-security-default", o.PodSecurityDefault,
		"Pod Security level that namespaces without a label enforce in this cluster: privileged, baseline or restricted")
	p.StringVar(&o.TUNResource, "tun-resource", o.TUNResource,
		"extended resource of a device plugin that brings /dev/net/tun; members with the datapath TUN ask for it")
	p.BoolVar(&o.TUNForAuto, "tun-for-auto", o.TUNForAuto,
		"members with the datapath Auto ask for --tun-resource too: only where every node offers it, as they run nowhere else")
	p.StringVar(&o.UserNamespaces, "user-namespaces", o.UserNamespaces,
		"whether pods whose sidecar gets NET_ADMIN get a user namespace where that changes nothing for them: Auto (if every node has them), Always or Never")
	p.StringVar(&o.OTLPEndpoint, "otlp-endpoint", "",
		"http or https URL of an OpenTelemetry collector that gets traces of how pods join; left out, OTEL_EXPORTER_OTLP_ENDPOINT counts, and without it nothing is traced")
	p.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	p.StringVar(&format, "log-format", "json", "json or text")
	for _, image := range []string{"sidecar-image", "gateway-image"} {
		if err := c.MarkFlagRequired(image); err != nil {
			panic(err) // unreachable: the flag is defined above
		}
	}
	return c
}
