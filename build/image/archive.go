package main

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

// write saves the image as an OCI layout in a tar, with the manifest.json of `docker save` beside it: containerd, podman
// and skopeo read the one, docker load of any version the other, and both name the same blobs.
func write(o options) error {
	img, err := build(o)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(o.ref)
	if err != nil {
		return err
	}
	entries, err := archive(img, tag, o.arch)
	if err != nil {
		return fmt.Errorf("make archive: %w", err)
	}
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
	return os.WriteFile(o.output, buf.Bytes(), 0o644)
}

func archive(img v1.Image, tag name.Tag, arch string) ([]entry, error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	manifestDigest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	configDigest, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	layers, names, err := layerEntries(img)
	if err != nil {
		return nil, err
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{{
		MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: manifestDigest,
		Platform:    &v1.Platform{OS: "linux", Architecture: arch},
		Annotations: map[string]string{"io.containerd.image.name": tag.Name(), "org.opencontainers.image.ref.name": tag.TagStr()},
	}}})
	if err != nil {
		return nil, err
	}
	docker, err := json.Marshal([]map[string]any{{"Config": blob(configDigest), "RepoTags": []string{tag.Name()}, "Layers": names}})
	if err != nil {
		return nil, err
	}
	entries := []entry{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index}, {"manifest.json", docker},
		{blob(manifestDigest), manifest}, {blob(configDigest), config},
	}
	return append(entries, layers...), nil
}

func layerEntries(img v1.Image) (entries []entry, names []string, err error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return nil, nil, err
		}
		r, err := l.Compressed()
		if err != nil {
			return nil, nil, err
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil {
			return nil, nil, err
		}
		entries, names = append(entries, entry{blob(digest), b}), append(names, blob(digest))
	}
	return entries, names, nil
}

func blob(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
