// Package oci makes container images of one layer without a container engine, and puts them into archives. The same description and
// files give the same bytes, whenever and wherever it runs.
package oci

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is what to make.
type Image struct {
	Ref, Entrypoint string // a name and tag, such as REGISTRY/sidecar:dev; the program to run
	User, Arch      string // UID:GID; as GOARCH names it
	Labels          map[string]string
	Files           []File
	Created         time.Time
}

// File is one file of the image and where it comes from.
type File struct {
	Source, Path string // Path without the leading slash
	NetAdmin     bool   // it has the file capability cap_net_admin=p
}

// build makes the image in memory.
func (i Image) build() (v1.Image, error) {
	content, err := layerTar(i.Files, i.Created)
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{
		Created: v1.Time{Time: i.Created}, CreatedBy: "tenantwire build/image"}})
	if err != nil {
		return nil, fmt.Errorf("add layer: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", i.Arch, v1.Time{Time: i.Created}
	config.Config = v1.Config{User: i.User, Labels: i.Labels, WorkingDir: "/"}
	if i.Entrypoint != "" {
		config.Config.Entrypoint = []string{i.Entrypoint}
	}
	return mutate.ConfigFile(img, config)
}

// layerTar holds the files in the order of their names, each after the folders it lies in. All belong to root, so that
// the program cannot change itself.
func layerTar(files []File, created time.Time) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	seen := map[string]bool{}
	for _, f := range files {
		for _, d := range parents(f.Path) {
			if seen[d] {
				continue
			}
			seen[d] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755, ModTime: created}); err != nil {
				return nil, err
			}
		}
		if err := addFile(w, f, created); err != nil {
			return nil, fmt.Errorf("add %s: %w", f.Source, err)
		}
	}
	return buf.Bytes(), w.Close()
}

// PermittedNetAdmin is the extended attribute security.capability (struct vfs_cap_data, version 2, little-endian) that `setcap
// cap_net_admin=p` writes: CAP_NET_ADMIN, bit 12, is permitted where the container has it, and nothing is in effect by itself. With
// the flag "effective" the program could not be started where the container does not have it.
const PermittedNetAdmin = "\x00\x00\x00\x02" + "\x00\x10\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// CapabilityRecord is the PAX record of a layer's file that carries its capability.
const CapabilityRecord = "SCHILY.xattr.security.capability"

// addFile leaves of the file's mode only whether it is executable: the rest depends on the umask.
func addFile(w *tar.Writer, f File, created time.Time) error {
	b, err := os.ReadFile(f.Source)
	if err != nil {
		return err
	}
	info, err := os.Stat(f.Source)
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: mode, Size: int64(len(b)), ModTime: created}
	if f.NetAdmin {
		h.PAXRecords = map[string]string{CapabilityRecord: PermittedNetAdmin}
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func parents(p string) []string {
	var dirs []string
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		dirs = append(dirs, d)
	}
	slices.Reverse(dirs)
	return dirs
}
