package webhook

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
	"github.com/tenantwire/tenantwire/tracing"
)

// What the manifests have to agree with.
const (
	// Path is where the webhook is served.
	Path = "/inject"
	// ConfigurationName is the name of the MutatingWebhookConfiguration.
	ConfigurationName = "tenantwire"
	// WebhookService and CoordinatorService are the Services that the certificate is made out to.
	WebhookService     = "tenantwire-webhook"
	CoordinatorService = "tenantwire-coordinator"
	// SecretName is the Secret, in the operator's namespace, with the serving certificate and its CA. It has to exist, empty at
	// first: creating a Secret is a right that cannot be limited by name.
	SecretName = "tenantwire-serving-cert"
)

// Options of the webhook.
type Options struct {
	// Injector is what every injected pod has in common.
	Injector injector.Config
	// Traces makes spans; nil: nothing is traced.
	Traces trace.TracerProvider
}

// Setup registers the webhook with the manager's webhook server and has the manager's cache hold what it reads.
func Setup(mgr manager.Manager, o Options) error {
	if err := o.Injector.Validate(); err != nil {
		return fmt.Errorf("set up webhook: %w", err)
	}
	// Informers that are asked for now are synced before the manager is ready, not when the first pod waits for them.
	watched := []client.Object{&corev1.Namespace{}, &corev1.Service{}, &v1alpha1.TenantTunnel{}}
	var nodes *nodeFeatures
	if o.Injector.UserNamespaces == injector.UserNamespacesAuto {
		nodes, watched = &nodeFeatures{cached: mgr.GetCache()}, append(watched, &corev1.Node{})
	}
	for _, object := range watched {
		if _, err := mgr.GetCache().GetInformer(context.Background(), object, cache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("set up webhook: watch %T: %w", object, err)
		}
	}
	traces := o.Traces
	if traces == nil {
		traces = noop.NewTracerProvider()
	}
	h := &handler{
		tracer: traces.Tracer(tracing.Scope),
		config: o.Injector,
		cached: mgr.GetCache(),
		live:   newLiveReader(mgr.GetAPIReader()),
		nodes:  nodes,
		events: eventsOf(mgr.GetEventRecorder("tenantwire-webhook")),
		log:    mgr.GetLogger().WithName("webhook"),
	}
	server := mgr.GetWebhookServer()
	if server == nil {
		return errors.New("set up webhook: the manager has no webhook server")
	}
	server.Register(Path, &admission.Webhook{Handler: h})
	return nil
}
