package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/tenantwire/tenantwire/build/oci"
)

const ref = "ghcr.io/tenantwire/sidecar:dev"

// makeImage builds a program in a folder of its own, at a time of its own, and puts it into an image.
func makeImage(t *testing.T, mode os.FileMode, when time.Time) string {
	t.Helper()
	dir := t.TempDir()
	program, source := filepath.Join(dir, "sidecar"), "package main\n\nfunc main() { println(\"hello\") }\n"
	for f, s := range map[string]string{"go.mod": "module example.com/sidecar\n\ngo 1.26\n", "main.go": source} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	if err := os.Chmod(program, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(program, when, when); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.tar")
	o, err := parse([]string{"-o", out, "-ref", ref, "-entrypoint", "/sidecar", "-label", "a=b", "-label", "c=d", "-arch", "amd64", "-net-admin", "/sidecar",
		program + ":/sidecar", filepath.Join(dir, "go.mod") + ":/etc/x/go.mod"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := oci.Write(o.output, o.Image); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReproducible(t *testing.T) {
	var images [2][]byte
	for i, f := range []string{makeImage(t, 0o755, time.Now()), makeImage(t, 0o700, time.Unix(1e9, 0))} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = b
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same source gave two different images")
	}
}

func TestReadableByDockerAndOCI(t *testing.T) {
	f := makeImage(t, 0o755, time.Now())
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	docker, err := tarball.ImageFromPath(f, &tag)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if b, err := exec.CommandContext(t.Context(), "tar", "-xf", f, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v\n%s", err, b)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("got %+v, %v; want one image", manifest, err)
	}
	if got := manifest.Manifests[0].Annotations["io.containerd.image.name"]; got != ref {
		t.Errorf("name for containerd: got %q, want %q", got, ref)
	}
	oci, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	for name, img := range map[string]v1.Image{"docker": docker, "oci": oci} {
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if c := config.Config; c.User != "65532:65532" || c.Entrypoint[0] != "/sidecar" || c.Labels["c"] != "d" || config.OS != "linux" {
			t.Errorf("%s: unexpected config %+v", name, config)
		}
	}
}

func TestParse(t *testing.T) {
	for _, args := range [][]string{nil, {"-o", "x", "-ref", "y"}, {"-o", "x", "-ref", "y", "file"}, {"-o", "x", "-ref", "y", "-label", "z", "f:/f"},
		{"-o", "x", "-ref", "y", "-net-admin", "/g", "f:/f"}} {
		if _, err := parse(args, ""); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	o, err := parse([]string{"-o", "x", "-ref", "y", "f:/a/f"}, "86400")
	if err != nil || o.Created.Unix() != 86400 || o.Files[0] != (oci.File{Source: "f", Path: "a/f"}) {
		t.Errorf("got %+v, %v", o, err)
	}
	if _, err := parse([]string{"-o", "x", "-ref", "y", "f:/f"}, "today"); err == nil {
		t.Error("a broken SOURCE_DATE_EPOCH: no error")
	}
}
