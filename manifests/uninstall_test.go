package manifests_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// tenantObjects are an opted-in namespace in use.
const tenantObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: acme, labels: {tenantwire.dev/inject: enabled}}
---
apiVersion: tenantwire.dev/v1alpha1
kind: TenantTunnel
metadata: {name: main, namespace: acme}
spec: {expose: [{service: web}]}
---
apiVersion: tenantwire.dev/v1alpha1
kind: TunnelPeer
metadata: {name: laptop, namespace: acme}
spec: {tunnel: main, publicKey: "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="}
`

const tenantPod = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: acme}, spec: {containers: [{name: c, image: example.com/x}]}}`

// In whichever order the objects of install.yaml are deleted, with tunnels there and no operator that would help: all of them go at once,
// tenants' objects with their kinds, and pods can be made again in namespaces that are opted in. What needs the cluster's own
// controllers, the end of namespaces and of what has owners, is in test/e2e.
func TestUninstallOnCluster(t *testing.T) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Skip("SKIPPED: KUBEBUILDER_ASSETS is not set to a folder with kube-apiserver, etcd and kubectl; this test needs a real API server")
	}
	install, err := os.ReadFile("install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	docs := strings.Split(string(install), "\n---\n")
	reversed := slices.Clone(docs)
	slices.Reverse(reversed)
	for name, order := range map[string][]string{"as it is written": docs, "the other way round": reversed} {
		t.Run(name, func(t *testing.T) {
			kubectl := apiServer(t, assets)
			must := func(stdin string, args ...string) {
				t.Helper()
				if out, err := kubectl(stdin, args...); err != nil {
					t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
				}
			}
			must("", "apply", "-f", "install.yaml")
			must("", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
			must(tenantObjects, "apply", "-f", "-")
			if out, err := kubectl(tenantPod, "create", "-f", "-"); err == nil || !strings.Contains(out, "pods.tenantwire.dev") {
				t.Fatalf("a webhook that does not answer lets pods pass: %v, %s", err, out)
			}
			// The end of a namespace is a controller's work, and there is none here.
			must(strings.Join(order, "\n---\n"), "delete", "--wait=false", "-f", "-")
			deadline := time.Now().Add(2 * time.Minute) // the API server lets go of a definition when it gets to it
			for n := 1; ; n++ {
				err := remains(kubectl)
				if err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
				if n%10 == 0 { // it looks again at once at what changes, and ever more seldom at what it could not do
					_, _ = kubectl("", "annotate", "crd", "--all", "--overwrite", fmt.Sprintf("test/look=%d", n))
				}
				time.Sleep(100 * time.Millisecond)
			}
			must(tenantPod, "create", "-f", "-")
		})
	}
}

// remains says what is left of the cluster's objects.
func remains(kubectl func(string, ...string) (string, error)) error {
	out, err := kubectl("", "get", "-o", "name",
		"crd,clusterrole,clusterrolebinding,mutatingwebhookconfiguration,validatingadmissionpolicy,validatingadmissionpolicybinding")
	if err != nil || strings.Contains(out, "tenantwire") {
		return fmt.Errorf("left: %s (%w)", out, err)
	}
	return nil
}

// apiServer starts one and returns kubectl for it.
func apiServer(t *testing.T, assets string) func(stdin string, args ...string) (string, error) {
	t.Helper()
	env := &envtest.Environment{}
	if _, err := env.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = env.Stop() })
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(stdin string, args ...string) (string, error) {
		cmd := exec.CommandContext(context.Background(), filepath.Join(assets, "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...) //nolint:gosec // a test
		cmd.Stdin = bytes.NewReader([]byte(stdin))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}
