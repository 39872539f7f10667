// Package operator puts the control plane together: on every replica the admission webhook and the coordinator, on the leader the
// controllers, all reading from one cache.
package operator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/controller"
	"github.com/tenantwire/tenantwire/tenant/coordinator"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/tracing"
	"github.com/tenantwire/tenantwire/webhook"
)

// Options of the operator; DefaultOptions are the manifests'.
type Options struct {
	Namespace       string // the operator's own
	Version         string // of the program
	SidecarImage    string
	GatewayImage    string
	ClusterDomain   string
	WebhookPort     int
	CoordinatorPort int
	MetricsAddress  string
	HealthAddress   string
	CertSource      string // webhook.CertRotated or webhook.CertExternal
	CertDir         string
	LeaderElect     bool
	ShutdownDelay   time.Duration // how long a replica serves on after it was told to end; the pod's grace period is longer
	// What injected pods are granted for their datapaths; see injector.Config.
	PodSecurityDefault string
	TUNResource        string
	TUNForAuto         bool
	UserNamespaces     string
	OTLPEndpoint       string // where traces of joins go; empty: where OTEL_EXPORTER_OTLP_ENDPOINT says, or nowhere
	Log                logr.Logger
}

// DefaultOptions leaves Namespace, SidecarImage, GatewayImage and Log to the caller.
func DefaultOptions() Options {
	return Options{
		ClusterDomain: "cluster.local", WebhookPort: 9443, CoordinatorPort: 9444, MetricsAddress: ":8080", HealthAddress: ":8081",
		CertSource: string(webhook.CertRotated), CertDir: "/run/tenantwire/certs", LeaderElect: true,
		// The slowest on the way from a pod's deletion to the last node's rules, and some more.
		ShutdownDelay:      10 * time.Second,
		PodSecurityDefault: string(injector.DefaultConfig().PodSecurityDefault), UserNamespaces: string(injector.DefaultConfig().UserNamespaces),
	}
}

// ShutdownTimeout bounds how long everything may take to end once the replica has stopped serving.
const ShutdownTimeout = 10 * time.Second

// Run runs the operator until o.ShutdownDelay after ctx ends.
func Run(ctx context.Context, cfg *rest.Config, o Options) error {
	if o.Namespace == "" {
		return errors.New("--namespace: empty; set it or POD_NAMESPACE to the operator's own namespace")
	}
	ctrl.SetLogger(o.Log)
	certs, err := webhook.NewCertificates(webhook.CertOptions{Source: webhook.CertSource(o.CertSource), Namespace: o.Namespace, CertDir: o.CertDir})
	if err != nil {
		return err
	}
	if err := awaitCluster(ctx, cfg, o); err != nil {
		return err
	}
	traces, flush, err := tracing.Open(ctx, o.OTLPEndpoint, o.Version)
	if err != nil {
		return err
	}
	defer func() { flushTraces(ctx, o.Log, flush) }()
	mgr, err := newManager(cfg, o, certs, ctx.Done())
	if err != nil {
		return err
	}
	if err := certs.AddToManager(mgr); err != nil {
		return err
	}
	if err := registerMetrics(metrics.Registry, mgr.GetClient(), mgr.Elected(), webhook.CertificateCollector(certs.Expires, certs.Renews), o.Version); err != nil {
		return err
	}
	if err := webhook.Setup(mgr, webhook.Options{Injector: o.injector(), Traces: traces}); err != nil {
		return err
	}
	if err := controller.Setup(mgr, controller.Options{CABundle: certs.CABundle, CAChanged: certs.Changed(), Pods: o.injector(), Version: o.Version}); err != nil {
		return err
	}
	members, err := addCoordinator(mgr, o, certs, traces.Tracer(tracing.Scope))
	if err != nil {
		return err
	}
	for name, check := range map[string]healthz.Checker{
		"certificate": certs.Check, "webhook": mgr.GetWebhookServer().StartedChecker(), "coordinator": members.Check,
	} {
		if err := mgr.AddReadyzCheck(name, check); err != nil {
			return fmt.Errorf("add readiness check %s: %w", name, err)
		}
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("add health check: %w", err)
	}
	serving, end := serveOn(ctx, o)
	defer end()
	return mgr.Start(serving)
}

func newManager(cfg *rest.Config, o Options, certs *webhook.Certificates, ending <-chan struct{}) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register API types: %w", err)
		}
	}
	// The webhook and the coordinator answer people who wait; the default of 20 requests a second is for controllers.
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = 200, 400
	shutdown := ShutdownTimeout
	// A leader that cannot renew its lease ends, and its webhook and coordinator with it: it should outlast an API server's restart.
	lease, renew, retry := 30*time.Second, 20*time.Second, 3*time.Second
	mgr, err := ctrl.NewManager(cfg, manager.Options{
		Scheme:                        scheme,
		Cache:                         controller.CacheOptions(o.Namespace),
		Logger:                        o.Log,
		WebhookServer:                 webhook.NewServer(certs, "", o.WebhookPort, ending),
		Metrics:                       metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress:        o.HealthAddress,
		LeaderElection:                o.LeaderElect,
		LeaderElectionID:              controller.LeaderElectionID,
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		GracefulShutdownTimeout:       &shutdown,
	})
	if err != nil {
		return nil, fmt.Errorf("create manager: %w", err)
	}
	return mgr, nil
}

func (o Options) injector() injector.Config {
	c := injector.DefaultConfig()
	c.Image, c.GatewayImage, c.ClusterDomain = o.SidecarImage, o.GatewayImage, o.ClusterDomain
	c.PodSecurityDefault = injector.PodSecurityLevel(o.PodSecurityDefault)
	c.TUNResource, c.TUNForAuto = corev1.ResourceName(o.TUNResource), o.TUNForAuto
	c.UserNamespaces = injector.UserNamespaces(o.UserNamespaces)
	c.CoordinatorURL = fmt.Sprintf("https://%s.%s.svc", webhook.CoordinatorService, o.Namespace)
	return c
}

// addCoordinator runs the coordinator on every replica.
func addCoordinator(mgr manager.Manager, o Options, certs *webhook.Certificates, tracer trace.Tracer) (*coordinator.Server, error) {
	t := &tls.Config{NextProtos: []string{"h2", "http/1.1"}} //nolint:gosec // certs.TLS raises the minimum version to 1.3
	certs.TLS(t)
	recorder := mgr.GetEventRecorder("tenantwire-coordinator")
	m := coordinator.NewMetrics()
	if err := m.Register(metrics.Registry); err != nil {
		return nil, fmt.Errorf("register the coordinator's metrics: %w", err)
	}
	pods, err := controller.NewPlainPods(mgr)
	if err != nil {
		return nil, err
	}
	s := coordinator.New(coordinator.Options{
		Store: &coordinator.ClusterStore{Client: mgr.GetClient(), Pods: pods}, Log: o.Log.WithName("coordinator"), Metrics: m, TLS: t, Tracer: tracer,
		Addr: net.JoinHostPort("", strconv.Itoa(o.CoordinatorPort)),
		Event: func(about corev1.ObjectReference, kind string, reason tenant.Reason, action, message string) {
			recorder.Eventf(&about, nil, kind, string(reason), action, "%s", message)
		},
	})
	if err := coordinator.WatchChanges(context.Background(), mgr.GetCache(), s.Changed); err != nil {
		return nil, fmt.Errorf("set up the coordinator: %w", err)
	}
	if err := coordinator.WatchPods(context.Background(), pods, s.Changed); err != nil {
		return nil, fmt.Errorf("set up the coordinator: %w", err)
	}
	return s, mgr.Add(s)
}
