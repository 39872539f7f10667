package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// entry is one file of the archive.
type entry struct {
	name string
	data []byte
}

// Write saves the image as an OCI layout in a tar, with the manifest.json of `docker save` beside it: containerd, podman
// and skopeo read the one, docker load of any version the other, and both name the same blobs.
func Write(file string, i Image) error {
	tag, err := name.NewTag(i.Ref)
	if err != nil {
		return err
	}
	p, err := i.parts()
	if err != nil {
		return err
	}
	p.self.Annotations = names(tag)
	index, err := indexOf(p.self)
	if err != nil {
		return err
	}
	docker, err := json.Marshal([]map[string]any{{"Config": p.blobs[1].name, "RepoTags": []string{tag.Name()}, "Layers": layerNames(p.blobs)}})
	if err != nil {
		return err
	}
	return save(file, append([]entry{layoutFile, {"index.json", index}, {"manifest.json", docker}}, p.blobs...))
}

// WriteIndex saves images of one name for several architectures as an OCI layout in a tar, and returns the digest of the index that leads
// to them: what a registry has the image under, if it is copied there as it is.
func WriteIndex(file string, images []Image) (v1.Hash, error) {
	tag, err := name.NewTag(images[0].Ref)
	if err != nil {
		return v1.Hash{}, err
	}
	var all []v1.Descriptor
	var blobs []entry
	for _, i := range images {
		p, err := i.parts()
		if err != nil {
			return v1.Hash{}, fmt.Errorf("make image for %s: %w", i.Arch, err)
		}
		all, blobs = append(all, p.self), append(blobs, p.blobs...)
	}
	inner, err := indexOf(all...)
	if err != nil {
		return v1.Hash{}, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(inner))
	if err != nil {
		return v1.Hash{}, err
	}
	outer, err := indexOf(v1.Descriptor{MediaType: types.OCIImageIndex, Size: size, Digest: digest, Annotations: names(tag)})
	if err != nil {
		return v1.Hash{}, err
	}
	return digest, save(file, append([]entry{layoutFile, {"index.json", outer}, {blob(digest), inner}}, blobs...))
}

var layoutFile = entry{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}

// names are the annotations by which containerd and skopeo know an image of a layout.
func names(tag name.Tag) map[string]string {
	return map[string]string{"io.containerd.image.name": tag.Name(), "org.opencontainers.image.ref.name": tag.TagStr()}
}

func indexOf(manifests ...v1.Descriptor) ([]byte, error) {
	return json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: manifests})
}

// parts are an image's blobs, the manifest and the configuration first, and what an index says of it.
type parts struct {
	self  v1.Descriptor
	blobs []entry
}

func (i Image) parts() (p parts, err error) {
	img, err := i.build()
	if err != nil {
		return p, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return p, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return p, err
	}
	digest, err := img.Digest()
	if err != nil {
		return p, err
	}
	configDigest, err := img.ConfigName()
	if err != nil {
		return p, err
	}
	layers, err := layerEntries(img)
	if err != nil {
		return p, err
	}
	p.self = v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: digest,
		Platform: &v1.Platform{OS: "linux", Architecture: i.Arch}}
	p.blobs = append([]entry{{blob(digest), manifest}, {blob(configDigest), config}}, layers...)
	return p, nil
}

func layerNames(blobs []entry) (out []string) {
	for _, e := range blobs[2:] {
		out = append(out, e.name)
	}
	return out
}

func save(file string, entries []entry) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o644, Size: int64(len(e.data)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(e.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, buf.Bytes(), 0o644)
}

func layerEntries(img v1.Image) (entries []entry, err error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return nil, err
		}
		r, err := l.Compressed()
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{blob(digest), b})
	}
	return entries, nil
}

func blob(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
