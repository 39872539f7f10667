package webhook

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// addSecretWatch brings the Secret to this replica as soon as it changes; a mounted Secret would be a minute late, and empty for
// that long when the operator starts for the first time.
func (c *Certificates) addSecretWatch(mgr manager.Manager) error {
	log := mgr.GetLogger().WithName("certificates")
	secrets, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{&corev1.Secret{}: {Namespaces: map[string]cache.Config{
			c.options.Namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", SecretName)},
		}}},
	})
	if err != nil {
		return err
	}
	informer, err := secrets.GetInformer(context.Background(), &corev1.Secret{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	take := func(obj any) {
		s, ok := obj.(*corev1.Secret)
		if !ok || len(s.Data[keyFile]) == 0 {
			return // empty: the leader is about to fill it
		}
		if err := c.accept(s.Data[certFile], s.Data[keyFile], s.Data[caFile]); err != nil {
			log.Error(err, "certificate in the Secret not taken", "secret", SecretName, "resourceVersion", s.ResourceVersion)
			return
		}
		log.Info("certificate taken from the Secret", "secret", SecretName, "resourceVersion", s.ResourceVersion)
	}
	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: take, UpdateFunc: func(_, obj any) { take(obj) },
	}); err != nil {
		return err
	}
	return mgr.Add(everyReplica(secrets.Start))
}

// watchFiles reads an external source's files until ctx ends: often until there is a certificate, then as often as a kubelet could
// have replaced them.
func (c *Certificates) watchFiles(ctx context.Context, log logr.Logger) error {
	var seen [3]string
	for {
		wait := 10 * time.Second
		if err := c.readFiles(&seen); err != nil {
			log.Error(err, "certificate files not taken", "directory", c.options.CertDir)
		}
		select {
		case <-c.ready:
		default:
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// readFiles takes the files into use when they differ from those seen. The kubelet replaces all of them at once, others may not:
// a key that does not fit yet is an error, and is read again.
func (c *Certificates) readFiles(seen *[3]string) error {
	var now [3]string
	for i, name := range []string{certFile, keyFile, caFile} {
		data, err := os.ReadFile(filepath.Join(c.options.CertDir, name))
		if err != nil {
			return fmt.Errorf("read certificate: %w", err)
		}
		now[i] = string(data)
	}
	if now == *seen {
		return nil
	}
	if err := c.accept([]byte(now[0]), []byte(now[1]), []byte(now[2])); err != nil {
		return err
	}
	*seen = now
	return nil
}

// renewAhead is how long before it expires a certificate is made anew, which is looked at every twelve hours.
const renewAhead = 90 * 24 * time.Hour

// addRotator has the leader make and renew the certificate, and keep the CA in the webhook configuration. One replica writes: two
// would each make a CA on the first start, and one of them throw its own away again.
func (c *Certificates) addRotator(mgr manager.Manager) error {
	names := c.options.DNSNames()
	return rotator.AddRotator(namedOnly{mgr, c.options.Namespace}, &rotator.CertRotator{
		SecretKey:             types.NamespacedName{Namespace: c.options.Namespace, Name: SecretName},
		CertDir:               c.options.CertDir,
		CAName:                "tenantwire-ca",
		CAOrganization:        "tenantwire",
		DNSName:               names[0],
		ExtraDNSNames:         names[1:],
		IsReady:               make(chan struct{}), // this replica's readiness is c.ready: only the leader's rotator runs
		Webhooks:              []rotator.WebhookInfo{{Name: ConfigurationName, Type: rotator.Mutating}},
		FieldOwner:            "tenantwire-certificates",
		RequireLeaderElection: true,
		ControllerName:        c.options.rotatorName,
		LookaheadInterval:     renewAhead,
	})
}

// namedOnly is the manager as the rotator sees it. The rotator's cache lists and watches whole collections: every Secret of the
// namespace and every webhook configuration. The operator has no right to that, only to its own by name, which the API server grants
// to requests that select that name. So the rotator's requests get that selector.
type namedOnly struct {
	manager.Manager
	namespace string
}

func (m namedOnly) GetConfig() *rest.Config {
	config := rest.CopyConfig(m.Manager.GetConfig())
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return selectByName{next, map[string]string{
			"/api/v1/namespaces/" + m.namespace + "/secrets":                      SecretName,
			"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations": ConfigurationName,
		}}
	})
	return config
}

// selectByName limits requests for a collection to one name.
type selectByName struct {
	next  http.RoundTripper
	names map[string]string // by path
}

func (t selectByName) RoundTrip(r *http.Request) (*http.Response, error) {
	if name, ok := t.names[r.URL.Path]; ok && r.Method == http.MethodGet {
		r = r.Clone(r.Context())
		q := r.URL.Query()
		q.Set("fieldSelector", fields.OneTermEqualSelector("metadata.name", name).String())
		r.URL.RawQuery = q.Encode()
	}
	return t.next.RoundTrip(r)
}
