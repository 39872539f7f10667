package kit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// PreviousSidecarImage is that of the version before, as the operator of that version injects it.
const PreviousSidecarImage = "ghcr.io/tenantwire/sidecar:previous"

// Previous is the version before this one, built from history, with its images on every node.
type Previous struct{ dir string }

// NewPrevious builds it, which takes some minutes the first time and none later. Where the history is not there, the test is skipped.
func NewPrevious(t T) *Previous {
	t.Helper()
	NeedNodes(t)
	c := script(t.Context(), "previous.sh")
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	var e *exec.ExitError
	switch {
	case errors.As(err, &e) && e.ExitCode() == 3:
		t.Skipf("%s. NOT TESTED: upgrades from the version before, and sidecars and operators of two versions", strings.TrimSpace(stderr.String()))
	case err != nil:
		t.Fatalf("build the version before: %v\n%s", err, stderr.String())
	}
	p := &Previous{strings.TrimSpace(string(out))}
	images, err := filepath.Glob(filepath.Join(p.dir, "*.tar"))
	if err != nil || len(images) == 0 {
		t.Fatalf("%s has no images: %v", p.dir, err)
	}
	if out, err := script(t.Context(), "load-image.sh", images...).CombinedOutput(); err != nil {
		t.Fatalf("load the images of the version before: %v\n%s", err, out)
	}
	return p
}

// InstallPrevious applies the version before as Install applies this one, and waits as it does. When the test ends, this version is
// installed again, so the test must not be parallel.
func (c *Cluster) InstallPrevious(t T, p *Previous) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Install(context.Background()); err != nil {
			t.Errorf("install this version again: %v", err)
		}
	})
	sum := sha256.Sum256([]byte(p.dir)) // which has the commit's name
	stamp := func(u *unstructured.Unstructured) {
		if u.GetKind() == "Deployment" && u.GetName() == OperatorName {
			offerTUN(u)
			_ = unstructured.SetNestedField(u.Object, hex.EncodeToString(sum[:8]), "spec", "template", "metadata", "annotations", "tenantwire.test/image")
		}
	}
	if err := c.installFrom(t.Context(), filepath.Join(p.dir, "install.yaml"), stamp); err != nil {
		t.Fatalf("install the version before: %v", err)
	}
}

// installFrom applies a file's objects after change has seen them, and waits until what it installs serves.
func (c *Cluster) installFrom(ctx context.Context, file string, change func(*unstructured.Unstructured)) error {
	f, err := os.Open(file) //nolint:gosec // a manifest of ours
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.ApplyYAML(ctx, f, change); err != nil {
		return fmt.Errorf("apply %s: %w", file, err)
	}
	if err := Poll(ctx, 2*Deadline, func() error { return c.operatorReady(ctx) }); err != nil {
		return err
	}
	return c.admissionReady(ctx)
}
