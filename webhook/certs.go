package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// CertSource says who maintains the serving certificate.
type CertSource string

// The sources.
const (
	// CertRotated: the leader makes and renews a CA and a certificate in the Secret; every replica watches it.
	CertRotated CertSource = "rotated"
	// CertExternal: files in CertDir that somebody else maintains, cert-manager for example.
	CertExternal CertSource = "external"
)

// The keys of the Secret and the names of the files in CertDir.
const (
	certFile = "tls.crt"
	keyFile  = "tls.key"
	caFile   = "ca.crt"
)

// CertOptions say where certificates come from.
type CertOptions struct {
	// Source is who maintains them.
	Source CertSource
	// Namespace is the operator's: the certificate is for Services in it, and the Secret lies there.
	Namespace string
	// CertDir holds tls.crt, tls.key and ca.crt of an external source. For a rotated one it is an empty directory to write to, where
	// only the certificate goes: the key stays in memory.
	CertDir string

	rotatorName string // for tests that run several replicas in one process
}

// Certificates are the serving certificate of this replica and the CA that it can be verified with.
type Certificates struct {
	options CertOptions
	ready   chan struct{}
	changed chan event.GenericEvent

	mu   sync.RWMutex
	cert *tls.Certificate
	ca   []byte
}

// NewCertificates has no certificate yet; AddToManager starts looking for one.
func NewCertificates(o CertOptions) (*Certificates, error) {
	if o.Source != CertRotated && o.Source != CertExternal {
		return nil, fmt.Errorf("set up certificates: source %q is neither %s nor %s", o.Source, CertRotated, CertExternal)
	}
	if o.Namespace == "" || o.CertDir == "" {
		return nil, errors.New("set up certificates: the namespace or the directory is empty")
	}
	return &Certificates{options: o, ready: make(chan struct{}), changed: make(chan event.GenericEvent, 1)}, nil
}

// DNSNames are the names that the certificate is for, the webhook's first.
func (o CertOptions) DNSNames() []string {
	return []string{WebhookService + "." + o.Namespace + ".svc", CoordinatorService + "." + o.Namespace + ".svc"}
}

// AddToManager has the manager keep the certificates current, on every replica.
func (c *Certificates) AddToManager(mgr manager.Manager) error {
	if c.options.Source == CertExternal {
		return mgr.Add(everyReplica(func(ctx context.Context) error { return c.watchFiles(ctx, mgr.GetLogger().WithName("certificates")) }))
	}
	if err := c.addSecretWatch(mgr); err != nil {
		return fmt.Errorf("watch secret %s/%s: %w", c.options.Namespace, SecretName, err)
	}
	if err := c.addRotator(mgr); err != nil {
		return fmt.Errorf("set up certificate rotation: %w", err)
	}
	return nil
}

// everyReplica is a runnable that does not wait for leadership.
type everyReplica func(context.Context) error

func (f everyReplica) Start(ctx context.Context) error { return f(ctx) }
func (everyReplica) NeedLeaderElection() bool          { return false }

// TLS configures a server to present the certificate, always the current one.
func (c *Certificates) TLS(t *tls.Config) {
	t.MinVersion = tls.VersionTLS13
	t.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c.mu.RLock()
		defer c.mu.RUnlock()
		if c.cert == nil {
			return nil, errors.New("present certificate: there is none yet")
		}
		return c.cert, nil
	}
}

// Ready is closed once there is a certificate.
func (c *Certificates) Ready() <-chan struct{} { return c.ready }

// Check is a readiness check: it fails until there is a certificate and once it has expired.
func (c *Certificates) Check(*http.Request) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.cert == nil {
		return errors.New("there is no serving certificate yet")
	}
	if time.Now().After(c.cert.Leaf.NotAfter) {
		return fmt.Errorf("the serving certificate expired at %s", c.cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// CABundle is what clients verify the certificate with, in PEM; nil until Ready.
func (c *Certificates) CABundle() []byte {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return bytes.Clone(c.ca)
}

// Changed receives an event when CABundle has changed, the first time included. It is for one consumer; events that nobody took
// yet are merged.
func (c *Certificates) Changed() <-chan event.GenericEvent { return c.changed }

// accept takes a certificate into use if it is sound; otherwise the one before stays.
func (c *Certificates) accept(certPEM, keyPEM, caPEM []byte) error {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("parse certificate and key: %w", err)
	}
	if err := c.verify(cert.Leaf, caPEM); err != nil {
		return err
	}
	if c.options.Source == CertRotated {
		// The rotator looks for this file before it tells the API server of the CA.
		if err := writeFile(filepath.Join(c.options.CertDir, certFile), certPEM); err != nil {
			return err
		}
	}
	c.mu.Lock()
	changed := !bytes.Equal(c.ca, caPEM)
	first := c.cert == nil
	c.cert, c.ca = &cert, bytes.Clone(caPEM)
	c.mu.Unlock()
	if first {
		close(c.ready)
	}
	if changed {
		select {
		case c.changed <- event.GenericEvent{Object: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.options.Namespace, Name: SecretName}}}:
		default: // one is waiting already
		}
	}
	return nil
}

// verify asks what every client will ask.
func (c *Certificates) verify(leaf *x509.Certificate, caPEM []byte) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return fmt.Errorf("parse CA: %s has no certificate", caFile)
	}
	for _, name := range c.options.DNSNames() {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			return fmt.Errorf("verify certificate for %s: %w", name, err)
		}
	}
	return nil
}

// writeFile replaces a file whole.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
