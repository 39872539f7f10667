package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// authority signs the cluster's certificates and writes them to dir.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// client is one user of the API server. One with a server URL gets a kubeconfig for it too.
type client struct{ file, user, group, server string }

func pki(args []string) error {
	fs := flag.NewFlagSet("pki", flag.ExitOnError)
	dir := fs.String("dir", "", "output directory")
	server := fs.String("server", "", "API server URL inside the cluster")
	outside := fs.String("outside", "", "API server URL for the admin's kubeconfig")
	ips := fs.String("ip", "", "serving addresses besides 127.0.0.1, comma separated")
	nodes := fs.String("nodes", "", "node names, comma separated")
	_ = fs.Parse(args)

	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	ca := &authority{dir: *dir}
	if err := ca.init(); err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	if err := ca.issue("apiserver", servingCertificate(*ips)); err != nil {
		return fmt.Errorf("issue serving certificate: %w", err)
	}
	for _, c := range clients(*server, *outside, strings.Split(*nodes, ",")) {
		if err := ca.issueClient(c); err != nil {
			return fmt.Errorf("issue client certificate %s: %w", c.file, err)
		}
	}
	return writeServiceAccountKey(*dir)
}

func servingCertificate(ips string) *x509.Certificate {
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
	}
	for s := range strings.SplitSeq("127.0.0.1,"+ips, ",") {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	return t
}

func clients(server, outside string, nodes []string) []client {
	cs := []client{
		{"admin", "admin", "system:masters", outside},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters", ""},
		{"controller-manager", "system:kube-controller-manager", "", server},
		{"scheduler", "system:kube-scheduler", "", server},
		{"kube-proxy", "system:kube-proxy", "", server},
	}
	for _, n := range nodes {
		cs = append(cs, client{"kubelet-" + n, "system:node:" + n, "system:nodes", server})
	}
	return cs
}

func (a *authority) init() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.key = key
	a.cert = &x509.Certificate{Subject: pkix.Name{CommonName: "test-cluster-ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	cert, err := a.sign(a.cert, key)
	if err != nil {
		return err
	}
	a.cert = cert
	return a.write("ca", cert, key)
}

func (a *authority) issue(file string, t *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := a.sign(t, key)
	if err != nil {
		return err
	}
	return a.write(file, cert, key)
}

func (a *authority) sign(t *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	t.KeyUsage |= x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (a *authority) write(file string, cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(a.dir, file+".crt"), "CERTIFICATE", cert.Raw, 0o644); err != nil {
		return err
	}
	return writePEM(filepath.Join(a.dir, file+".key"), "EC PRIVATE KEY", der, 0o600)
}

func (a *authority) issueClient(c client) error {
	t := &x509.Certificate{Subject: pkix.Name{CommonName: c.user}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if c.group != "" {
		t.Subject.Organization = []string{c.group}
	}
	if err := a.issue(c.file, t); err != nil || c.server == "" {
		return err
	}
	var data [3]string
	for i, f := range []string{"ca.crt", c.file + ".crt", c.file + ".key"} {
		b, err := os.ReadFile(filepath.Join(a.dir, f))
		if err != nil {
			return err
		}
		data[i] = base64.StdEncoding.EncodeToString(b)
	}
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: test, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
`, c.server, data[0], data[1], data[2])
	return os.WriteFile(filepath.Join(a.dir, c.file+".kubeconfig"), []byte(config), 0o600)
}

func writeServiceAccountKey(dir string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, "sa.key"), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), 0o600); err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, "sa.pub"), "PUBLIC KEY", pub, 0o644)
}

func writePEM(path, typ string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), mode)
}
