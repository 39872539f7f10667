package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/open-policy-agent/cert-controller/pkg/rotator"
)

// issued is a certificate as the rotator makes it.
type issued struct{ cert, key, ca []byte }

func issue(t *testing.T, names []string, until time.Duration) issued {
	t.Helper()
	r := &rotator.CertRotator{CAName: "tenantwire-ca", CAOrganization: "tenantwire", DNSName: names[0], ExtraDNSNames: names[1:],
		ExtKeyUsages: &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	begin, end := time.Now().Add(-2*time.Hour), time.Now().Add(until)
	ca, err := r.CreateCACert(begin, time.Now().Add(24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := r.CreateCertPEM(ca, begin, end)
	if err != nil {
		t.Fatal(err)
	}
	return issued{cert, key, ca.CertPEM}
}

func newTestCertificates(t *testing.T, source CertSource) *Certificates {
	t.Helper()
	c, err := NewCertificates(CertOptions{Source: source, Namespace: "system", CertDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificatesAccept(t *testing.T) {
	c := newTestCertificates(t, CertRotated)
	if c.Check(nil) == nil || c.CABundle() != nil {
		t.Error("ready without a certificate")
	}
	good, other := issue(t, c.options.DNSNames(), time.Hour), issue(t, c.options.DNSNames(), time.Hour)
	for name, bad := range map[string]issued{
		"key of another":       {good.cert, other.key, good.ca},
		"CA of another":        {good.cert, good.key, other.ca},
		"no CA":                {good.cert, good.key, nil},
		"no coordinator":       issue(t, c.options.DNSNames()[:1], time.Hour),
		"no webhook":           issue(t, c.options.DNSNames()[1:], time.Hour),
		"expired":              issue(t, c.options.DNSNames(), -time.Hour),
		"nothing":              {},
		"certificate of a key": {good.key, good.key, good.ca},
	} {
		if err := c.accept(bad.cert, bad.key, bad.ca); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	select {
	case <-c.Ready():
		t.Fatal("ready after bad certificates only")
	default:
	}
	for range 2 { // the same one twice is one change
		if err := c.accept(good.cert, good.key, good.ca); err != nil {
			t.Fatal(err)
		}
	}
	<-c.Ready()
	if e := <-c.Changed(); e.Object.GetName() != SecretName {
		t.Errorf("changed: %v", e.Object)
	}
	if err := c.Check(nil); err != nil || string(c.CABundle()) != string(good.ca) {
		t.Errorf("check: %v", err)
	}
	if c.accept(good.cert, other.key, good.ca) == nil || c.Check(nil) != nil {
		t.Error("a bad certificate took the place of a good one")
	}
	for range 3 { // nobody takes these: they are merged, and do not block
		for _, i := range []issued{other, good} {
			if err := c.accept(i.cert, i.key, i.ca); err != nil {
				t.Fatal(err)
			}
		}
	}
	<-c.Changed()
	select {
	case <-c.Changed():
		t.Error("changes are not merged")
	default:
	}
}

// TestKeyStaysInMemory: a rotated certificate's directory holds the certificate, which the rotator waits for, and nothing else.
func TestKeyStaysInMemory(t *testing.T) {
	c := newTestCertificates(t, CertRotated)
	i := issue(t, c.options.DNSNames(), time.Hour)
	if err := c.accept(i.cert, i.key, i.ca); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(c.options.CertDir)
	if err != nil || len(files) != 1 || files[0].Name() != certFile {
		t.Errorf("%v, error %v", files, err)
	}
}

func TestExternalFiles(t *testing.T) {
	c := newTestCertificates(t, CertExternal)
	go func() { _ = c.watchFiles(t.Context(), logr.Discard()) }()
	i := issue(t, c.options.DNSNames(), time.Hour)
	for name, data := range map[string][]byte{certFile: i.cert, keyFile: i.key, caFile: i.ca} {
		if err := os.WriteFile(filepath.Join(c.options.CertDir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-c.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the files were not read")
	}
}

// TestTLS: the server presents the current certificate, and nothing older than TLS 1.3 gets in.
func TestTLS(t *testing.T) {
	c := newTestCertificates(t, CertRotated)
	config := &tls.Config{}
	c.TLS(config)
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveHandshakes(l)
	for range 2 { // the second one is a rotation
		i := issue(t, c.options.DNSNames(), time.Hour)
		if err := c.accept(i.cert, i.key, i.ca); err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(c.CABundle())
		for _, name := range c.options.DNSNames() {
			if err := handshake(l.Addr(), &tls.Config{RootCAs: roots, ServerName: name}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := handshake(l.Addr(), &tls.Config{RootCAs: roots, ServerName: c.options.DNSNames()[0], MaxVersion: tls.VersionTLS12}); err == nil {
			t.Error("TLS 1.2 got in")
		}
	}
}

func serveHandshakes(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}()
	}
}

func handshake(addr net.Addr, config *tls.Config) error {
	conn, err := tls.Dial("tcp", addr.String(), config)
	if err != nil {
		return err
	}
	return conn.Close()
}

// TestSelectByName: requests for the two collections are limited to our own objects, and no others are touched.
func TestSelectByName(t *testing.T) {
	var got string
	rt := selectByName{roundTrip(func(r *http.Request) { got = r.URL.Query().Get("fieldSelector") }),
		map[string]string{"/api/v1/namespaces/system/secrets": SecretName}}
	for _, tt := range []struct{ method, path, want string }{
		{http.MethodGet, "/api/v1/namespaces/system/secrets?watch=true&resourceVersion=1", "metadata.name=" + SecretName},
		{http.MethodGet, "/api/v1/namespaces/system/secrets/" + SecretName, ""},
		{http.MethodGet, "/api/v1/namespaces/other/secrets", ""},
		{http.MethodPost, "/api/v1/namespaces/system/secrets", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, "https://x"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		before := r.URL.String()
		_, _ = rt.RoundTrip(r)
		if got != tt.want || r.URL.String() != before {
			t.Errorf("%s %s: selector %q, want %q; the caller's request is %s", tt.method, tt.path, got, tt.want, r.URL)
		}
	}
}

type roundTrip func(*http.Request)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	f(r)
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}
