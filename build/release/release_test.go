package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/build/oci"
)

// Small programs in place of ours, in a repository with our manifests: a release of it takes seconds. What only ours can show is in
// TestReleasedSidecar, and in the check that every release ends with.
const smallProgram = `package main

import "golang.org/x/sync/semaphore"

var version = "dev"

func main() {
	semaphore.NewWeighted(1).TryAcquire(1)
	println(version)
}
`

var (
	smallFiles = map[string]string{"go.mod": "module github.com/tenantwire/tenantwire\n\ngo 1.26\n\nrequire golang.org/x/sync v0.22.0\n", ".gitignore": "/dist/\n", "LICENSE": "ours\n"}
	here       = []platform{{"linux", "amd64"}, {"windows", "amd64"}}
)

// repository makes one with a commit of a fixed time.
func repository(t *testing.T) options {
	t.Helper()
	root := t.TempDir()
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"go.sum": linesWith(string(sums), "golang.org/x/sync ")}
	for name, text := range smallFiles {
		files[name] = text
	}
	for _, name := range append([]string{client}, images...) {
		files["cmd/"+name+"/main.go"] = smallProgram
	}
	for name, text := range files {
		write(t, filepath.Join(root, name), text)
	}
	for _, name := range []string{"install.yaml", "chart"} {
		to := filepath.Join(root, "manifests", name)
		from := filepath.Join("..", "..", "manifests", name)
		if name == "chart" {
			err = os.CopyFS(to, os.DirFS(from))
		} else {
			var b []byte
			if b, err = os.ReadFile(from); err == nil { //nolint:gosec // ours
				write(t, to, string(b))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	git(t, root, "init", "-q")
	git(t, root, "add", "-A")
	git(t, root, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "all")
	o, _, err := parse([]string{"-version", "v1.2.3", "-root", root})
	if err != nil {
		t.Fatal(err)
	}
	o.clients, o.log = here, t.Logf
	return o
}

func linesWith(text, start string) (out string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, start) {
			out += line
		}
	}
	return out
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // a test
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "git", args...) //nolint:gosec // a test
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z", "GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// One release is made twice, elsewhere and later: the same bytes. Then each of its parts is spoiled, and verifying says which it is.
func TestRelease(t *testing.T) {
	o, again := repository(t), repository(t)
	for _, o := range []options{o, again} {
		if err := assemble(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if first, second := read(t, o, sumsFile), read(t, again, sumsFile); first != second {
		t.Errorf("the same commit gave two different releases:\n%s\n%s", first, second)
	}
	write(t, filepath.Join(again.root, "more"), "not committed")
	if err := assemble(t.Context(), again); err == nil || !strings.Contains(err.Error(), "more") {
		t.Errorf("what is not committed was released: %v", err)
	}
	t.Run("capabilities", func(t *testing.T) { haveCapabilities(t, o) })
	t.Run("spoiled", func(t *testing.T) { spoilEach(t, o) })
	t.Run("beyond sums", func(t *testing.T) { spoilWithSums(t, o) })
	if err := verify(o); err != nil {
		t.Error(err)
	}
	o.version = "v1.2.4"
	if err := verify(o); err == nil {
		t.Error("it passes for another version")
	}
}

// haveCapabilities says of each image's programs whether they may take CAP_NET_ADMIN.
func haveCapabilities(t *testing.T, o options) {
	for name, want := range map[string]string{"operator": "", "sidecar": oci.PermittedNetAdmin, "gateway": oci.PermittedNetAdmin} {
		c, programs := &check{options: o}, 0
		file := imageFile(name, o.version)
		for _, blob := range c.untar(file, c.read(file)) {
			if !bytes.HasPrefix(blob.data, []byte("\x1f\x8b")) { // a layer is packed, the rest is JSON
				continue
			}
			for _, f := range c.untar(file, c.gunzip(file, blob.data)) {
				programs++
				if f.name != name || f.capability != want {
					t.Errorf("%s: %s has capability %q, want %q", file, f.name, f.capability, want)
				}
			}
		}
		if programs != len(servers) || c.errs != nil {
			t.Errorf("%s: %d programs, want %d; %v", file, programs, len(servers), c.errs)
		}
	}
}

func spoilEach(t *testing.T, o options) {
	files, err := filesOf(o.out)
	if err != nil || len(files) < 15 {
		t.Fatalf("files: %q, %v", files, err)
	}
	for _, name := range files {
		before := read(t, o, name)
		write(t, filepath.Join(o.out, name), spoil(before))
		if err := verify(o); err == nil || name != sumsFile && !strings.Contains(err.Error(), name) {
			t.Errorf("%s was spoiled: %v", name, err)
		}
		write(t, filepath.Join(o.out, name), before)
	}
}

// spoil changes what sums of files alone find, too: the middle one of the characters.
func spoil(s string) string {
	b := []byte(s)
	b[len(b)/2] ^= 1
	return string(b)
}

func read(t *testing.T, o options, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(o.out, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whoever spoils a part and corrects the sums is found out by the other parts.
func spoilWithSums(t *testing.T, o options) {
	swap := func(name, from, to, want string) {
		t.Helper()
		before := read(t, o, name)
		if !strings.Contains(before, from) {
			t.Fatalf("%s has no %q", name, from)
		}
		write(t, filepath.Join(o.out, name), strings.Replace(before, from, to, 1))
		sumAgain(t, o)
		if err := verify(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q in place of %q: %v", name, to, from, err)
		}
		write(t, filepath.Join(o.out, name), before)
		sumAgain(t, o)
	}
	bill := bomFile(program{"sidecar", servers[1], ""}, o.version)
	swap("install.yaml", "sidecar:v1.2.3@sha256:", "sidecar:v1.2.3@sha256:0", "install.yaml does not have")
	swap(bill, `"name": "golang.org/x/sync"`, `"name": "golang.org/x/sink"`, bill)
	swap(bill, `"content": "`, `"content": "0`, bill)
	swap(krewFile, "sha256: ", "sha256: 0", krewFile)
	swap(provenanceFile(o.version), `"name": "install.yaml"`, `"name": "install.yml"`, "subjects")
	swap(provenanceFile(o.version), `"gitCommit"`, `"gitTree"`, "made of")
}

func sumAgain(t *testing.T, o options) {
	t.Helper()
	if err := os.Remove(filepath.Join(o.out, sumsFile)); err != nil {
		t.Fatal(err)
	}
	if err := (&release{options: o}).sums(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The sidecar that is released: its size, what it gives away of the machine, and that every module's licence is known.
func TestReleasedSidecar(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r := &release{options: options{root: root, out: t.TempDir(), version: "v1.2.3", log: t.Logf}, work: t.TempDir(), created: time.Unix(0, 0)}
	p := program{"sidecar", servers[0], filepath.Join(r.work, "sidecar")}
	if err := r.compileOne(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	r.programs = []program{p}
	if err := r.describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	c := &check{options: r.options, paths: machinePaths(root)}
	c.program("sidecar", p, b)
	for _, err := range c.errs {
		t.Error(err)
	}
	packed, err := tarball([]content{{"sidecar", 0o755, b}}, r.created)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d compressed", len(b), len(packed))
	if len(packed) > sidecarImage {
		t.Errorf("%d bytes compressed, want at most %d", len(packed), sidecarImage)
	}
}

// A folder is emptied only if a release made it; one that was cut short is known as well.
func TestEmptied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	for range 2 { // not there, then as a release begins
		if err := emptied(dir); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "left"), "half of a release")
	}
	if err := os.Remove(filepath.Join(dir, sumsFile)); err != nil {
		t.Fatal(err)
	}
	if err := emptied(dir); err == nil || !strings.Contains(err.Error(), dir+" is not empty") {
		t.Errorf("what no release made: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "left")); err != nil || len(b) == 0 { //nolint:gosec // a test
		t.Errorf("it is gone: %v", err)
	}
	if err := emptied(filepath.Join(dir, "left")); err == nil {
		t.Error("a file was taken for a folder")
	}
}

// An index that says no platform of an image is a fault of the release.
func TestNoPlatform(t *testing.T) {
	o := options{out: t.TempDir(), version: "v1.2.3", registry: "r", log: t.Logf}
	inner := `{"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`
	sum := sumBytes([]byte(inner))
	outer := `{"manifests":[{"digest":"sha256:` + sum + `","annotations":{"io.containerd.image.name":"r/sidecar:v1.2.3"}}]}`
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{"index.json": outer, "blobs/sha256/" + sum: inner} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(o.out, imageFile("sidecar", o.version)), b.String())
	c := &check{options: o, digests: map[string]string{}}
	c.image("sidecar")
	if err := errors.Join(c.errs...); err == nil || !strings.Contains(err.Error(), "says no platform") {
		t.Errorf("got %v", err)
	}
}

func TestParse(t *testing.T) {
	for _, v := range []string{"", "1.2.3", "v1.2", "v1.2.3+x", "v01.2.3", "v1.2.3-", "v1.2.3\n", "v1.2.3-" + strings.Repeat("x", 58)} {
		if _, _, err := parse([]string{"-version", v}); err == nil {
			t.Errorf("version %q: no error", v)
		}
	}
	if o, _, err := parse([]string{"-version", "v1.2.3-rc.1", "-root", "/r"}); err != nil || o.out != "/r/dist/release" {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestLicencesIn(t *testing.T) {
	const bsd = "Redistribution and use in source and\nbinary forms, with or without modification, are permitted"
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil}, {"All rights reserved.", nil}, {bsd, []string{"BSD-2-Clause"}}, {bsd + " * Neither the name of Google", []string{"BSD-3-Clause"}},
		{"Permission is hereby granted, free of charge, to any person obtaining a copy. The Software is provided “AS IS”, without warranty", []string{"MIT"}},
		{"  Apache License\n  Version 2.0, January 2004\n", []string{"Apache-2.0"}},
	} {
		if got := licencesIn([]byte(c.text)); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
}
