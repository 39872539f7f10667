package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// content is one file of an archive.
type content struct {
	name string
	mode int64
	data []byte
}

// makeArchives packs what runs outside of clusters: the client, and the sidecar, which runs from a file on any Linux machine.
func (r *release) makeArchives(context.Context) error {
	license, err := os.ReadFile(filepath.Join(r.root, "LICENSE"))
	if err != nil {
		return fmt.Errorf("read the licence: %w", err)
	}
	others, err := os.ReadFile(filepath.Join(r.out, noticesFile))
	if err != nil {
		return fmt.Errorf("read others' licences: %w", err)
	}
	for _, p := range append(r.of(client), r.of("sidecar")...) {
		b, err := os.ReadFile(p.file)
		if err != nil {
			return err
		}
		files := []content{{"LICENSE", 0o644, license}, {noticesFile, 0o644, others}, {programFile(p), 0o755, b}}
		pack := tarball
		if p.os == "windows" {
			pack = zipball
		}
		out, err := pack(files, r.created)
		if err != nil {
			return fmt.Errorf("pack %s: %w", p.label(), err)
		}
		if err := os.WriteFile(filepath.Join(r.out, archiveFile(p, r.version)), out, 0o644); err != nil { //nolint:gosec // releases are for everybody
			return err
		}
	}
	return nil
}

// programFile is the program's name in an archive.
func programFile(p program) string {
	name := p.name
	if name != client {
		name = "tenantwire-" + name
	}
	if p.os == "windows" {
		name += ".exe"
	}
	return name
}

func archiveFile(p program, version string) string {
	name, kind := p.name, "tar.gz"
	if name != client {
		name = "tenantwire-" + name
	}
	if p.os == "windows" {
		kind = "zip"
	}
	return fmt.Sprintf("%s-%s-%s.%s", name, version, p.platform, kind)
}

// tarball has nothing of the machine in it: the files belong to nobody, and their times are the commit's.
func tarball(files []content, when time.Time) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: when, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func zipball(files []content, when time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: when}
		h.SetMode(os.FileMode(f.mode)) //nolint:gosec // 0644 or 0755
		e, err := w.CreateHeader(h)
		if err != nil {
			return nil, err
		}
		if _, err := e.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
