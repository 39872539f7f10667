package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/tenantwire/tenantwire/build/oci"
)

const source = "https://github.com/tenantwire/tenantwire"

// makeImages puts each program of the cluster into an archive with an image for every platform. build/image.sh and the Dockerfile make
// the same images for one platform.
func (r *release) makeImages(context.Context) error {
	for _, name := range images {
		var all []oci.Image
		for _, p := range r.of(name) {
			all = append(all, oci.Image{Ref: r.ref(name), Entrypoint: "/" + name, User: "65532:65532", Arch: p.arch, Created: r.created,
				Files: []oci.File{{Source: p.file, Path: name, NetAdmin: takesNetAdmin(name)}},
				Labels: map[string]string{
					"org.opencontainers.image.title":       "tenantwire-" + name,
					"org.opencontainers.image.description": "TenantWire " + name + ": a WireGuard network for every tenant of a Kubernetes cluster",
					"org.opencontainers.image.source":      source,
					"org.opencontainers.image.licenses":    "Apache-2.0",
					"org.opencontainers.image.version":     r.version,
					"org.opencontainers.image.revision":    r.commit,
				}})
		}
		digest, err := oci.WriteIndex(filepath.Join(r.out, imageFile(name, r.version)), all)
		if err != nil {
			return fmt.Errorf("make image %s: %w", name, err)
		}
		r.digests[name] = digest.String()
		r.log("%s %s", r.ref(name), digest)
	}
	return nil
}

// takesNetAdmin says which programs have the file capability: sidecars and gateways, which have a data path.
func takesNetAdmin(name string) bool { return name != "operator" }

// ref is an image's name and tag.
func (o options) ref(name string) string { return o.registry + "/" + name + ":" + o.version }

func imageFile(name, version string) string {
	return fmt.Sprintf("tenantwire-%s-%s.oci.tar", name, version)
}
