package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tenantwire/tenantwire/build/oci"
)

// Bounds of the sidecar, which is in every pod.
const (
	sidecarProgram = 15_000_000 // bytes of the program, which is all that a node's disk holds of the image
	sidecarImage   = 15_000_000 // bytes of its layers as they are pulled, compressed
)

// check is a release being verified; everything that is wrong is told at once.
type check struct {
	options
	errs    []error
	paths   []string // of this machine, which no program may contain
	digests map[string]string
	files   []string
}

func (c *check) wrong(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

// verify reads a release as who downloads it would, and holds its parts against each other.
func verify(o options) error {
	c := &check{options: o, paths: machinePaths(o.root), digests: map[string]string{}}
	var err error
	if c.files, err = filesOf(o.out); err != nil {
		return err
	}
	c.sums()
	for _, name := range images {
		c.image(name)
	}
	for _, p := range append(programsOf(client, o.clients), programsOf("sidecar", servers)...) {
		c.archive(p)
	}
	c.manifests()
	c.provenance()
	if err := errors.Join(c.errs...); err != nil {
		return fmt.Errorf("%s is not a release of %s:\n%w", o.out, o.version, err)
	}
	o.log("%s: %d files of %s agree with each other", o.out, len(c.files), o.version)
	return nil
}

func programsOf(name string, on []platform) (out []program) {
	for _, p := range on {
		out = append(out, program{name, p, ""})
	}
	return out
}

// machinePaths are folders whose names tell of the machine: the repository's, Go's caches, temporary ones.
func machinePaths(root string) (out []string) {
	for _, p := range []string{root, goEnv("GOMODCACHE"), goEnv("GOCACHE"), filepath.Join(os.TempDir(), "go-build"), filepath.Join(goEnv("GOPATH"), "src")} {
		if len(p) > 1 { // not / itself
			out = append(out, p)
		}
	}
	return out
}

func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output() //nolint:gosec // names of ours
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func (c *check) read(name string) []byte {
	b, err := os.ReadFile(filepath.Join(c.out, name))
	if err != nil {
		c.wrong("read: %w", err)
	}
	return b
}

func (c *check) sums() {
	listed := []string{sumsFile}
	for line := range strings.Lines(string(c.read(sumsFile))) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok {
			c.wrong("%s: %q is not SUM  NAME", sumsFile, line)
			continue
		}
		listed = append(listed, name)
		if got := sumBytes(c.read(name)); got != sum {
			c.wrong("%s: its sum is %s, want %s", name, got, sum)
		}
	}
	slices.Sort(listed)
	if !slices.Equal(listed, c.files) {
		c.wrong("%s lists %q, there are %q", sumsFile, listed, c.files)
	}
}

// image checks that every blob is what its name says, that there is an image for each platform, and what is in it.
func (c *check) image(name string) {
	file := imageFile(name, c.version)
	blobs := map[string][]byte{}
	for _, f := range c.untar(file, c.read(file)) {
		if sum, ok := strings.CutPrefix(f.name, "blobs/sha256/"); ok && sum != sumBytes(f.data) {
			c.wrong("%s: %s has another sum", file, f.name)
		}
		blobs[f.name] = f.data
	}
	outer := decode[v1.IndexManifest](c, file, blobs["index.json"])
	if len(outer.Manifests) != 1 || outer.Manifests[0].Annotations["io.containerd.image.name"] != c.ref(name) {
		c.wrong("%s: index.json is not that of %s alone", file, c.ref(name))
		return
	}
	digest := outer.Manifests[0].Digest
	c.digests[name] = digest.String()
	inner := decode[v1.IndexManifest](c, file, blobs[blobName(digest)])
	var got []platform
	for _, m := range inner.Manifests {
		if m.Platform == nil {
			c.wrong("%s: the image %s says no platform", file, m.Digest)
			continue
		}
		p := platform{m.Platform.OS, m.Platform.Architecture}
		got = append(got, p)
		manifest := decode[v1.Manifest](c, file, blobs[blobName(m.Digest)])
		config := decode[v1.ConfigFile](c, file, blobs[blobName(manifest.Config.Digest)])
		c.config(file, name, p, config)
		if len(manifest.Layers) != 1 {
			c.wrong("%s: %d layers, want 1", file, len(manifest.Layers))
			continue
		}
		if size := manifest.Layers[0].Size; name == "sidecar" && size > sidecarImage {
			c.wrong("%s: %d bytes compressed, want at most %d", file, size, sidecarImage)
		}
		c.layer(file, program{name, p, ""}, blobs[blobName(manifest.Layers[0].Digest)])
	}
	if !slices.Equal(got, servers) {
		c.wrong("%s: images for %v, want %v", file, got, servers)
	}
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func decode[T any](c *check, file string, b []byte) (v T) {
	if err := json.Unmarshal(b, &v); err != nil {
		c.wrong("%s: %w", file, err)
	}
	return v
}

func (c *check) config(file, name string, p platform, f v1.ConfigFile) {
	if f.OS != p.os || f.Architecture != p.arch || f.Config.User != "65532:65532" || !slices.Equal(f.Config.Entrypoint, []string{"/" + name}) ||
		f.Config.Labels["org.opencontainers.image.version"] != c.version {
		c.wrong("%s: its configuration for %s is that of %s/%s, user %s, entrypoint %v, version %s", file, p, f.OS, f.Architecture, f.Config.User,
			f.Config.Entrypoint, f.Config.Labels["org.opencontainers.image.version"])
	}
}

// layer holds one file, the program, and one with a data path has its capability.
func (c *check) layer(file string, p program, packed []byte) {
	files := c.untar(file, c.gunzip(file, packed))
	if len(files) != 1 || files[0].name != p.name {
		c.wrong("%s: the layer for %s is not the program alone", file, p.platform)
		return
	}
	want := ""
	if takesNetAdmin(p.name) {
		want = oci.PermittedNetAdmin
	}
	if files[0].capability != want {
		c.wrong("%s: the program's capability for %s is %q, want %q", file, p.platform, files[0].capability, want)
	}
	c.program(file, p, files[0].data)
}

// program was built for its platform, by the commit alone, and its bill of materials is of it.
func (c *check) program(file string, p program, b []byte) {
	info, err := buildinfo.Read(bytes.NewReader(b))
	if err != nil {
		c.wrong("%s: %s: %w", file, p.label(), err)
		return
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["GOOS"] != p.os || settings["GOARCH"] != p.arch || settings["CGO_ENABLED"] != "0" || settings["-trimpath"] != "true" {
		c.wrong("%s: %s was built with %v", file, p.label(), settings)
	}
	if !bytes.Contains(b, []byte(c.version)) {
		c.wrong("%s: %s does not know its version", file, p.label())
	}
	for _, path := range c.paths {
		if bytes.Contains(b, []byte(path+"/")) {
			c.wrong("%s: %s contains %s, a path of this machine", file, p.label(), path)
		}
	}
	if p.name == "sidecar" && len(b) > sidecarProgram {
		c.wrong("%s: %s has %d bytes, want at most %d", file, p.label(), len(b), sidecarProgram)
	}
	c.bill(p, sumBytes(b), info)
}

func (c *check) bill(p program, sum string, info *debug.BuildInfo) {
	file := bomFile(p, c.version)
	b := decode[bom](c, file, c.read(file))
	if h := b.Metadata.Component.Hashes; len(h) != 1 || h[0].Content != sum {
		c.wrong("%s is not of %s", file, p.label())
	}
	listed := map[string]bool{}
	for _, m := range b.Components {
		listed[m.Name+" "+m.Version] = true
		if len(m.Licenses) == 0 {
			c.wrong("%s: %s has no licence", file, m.Name)
		}
	}
	want := map[string]bool{"std " + info.GoVersion: true}
	for _, m := range info.Deps {
		want[m.Path+" "+m.Version] = true
	}
	if !maps.Equal(listed, want) {
		c.wrong("%s lists %d modules that are not the %d of the program", file, len(listed), len(want))
	}
}

// archive is what people download: the same program as the images have.
func (c *check) archive(p program) {
	file := archiveFile(p, c.version)
	b := c.read(file)
	files := map[string][]byte{}
	if p.os == "windows" {
		files = c.unzip(file, b)
	} else {
		for _, f := range c.untar(file, c.gunzip(file, b)) {
			files[f.name] = f.data
		}
	}
	for _, name := range []string{"LICENSE", noticesFile, programFile(p)} {
		if len(files[name]) == 0 {
			c.wrong("%s has no %s", file, name)
		}
	}
	c.program(file, p, files[programFile(p)])
	if krew := string(c.read(krewFile)); p.name == client && !strings.Contains(krew, file+"\n    sha256: "+sumBytes(b)+"\n") {
		c.wrong("%s does not have %s with its sum", krewFile, file)
	}
}

// manifests name the images of this release, and nothing else.
func (c *check) manifests() {
	install := string(c.read("install.yaml"))
	files := map[string]string{}
	for _, f := range c.untar(chartFile(c.version), c.gunzip(chartFile(c.version), c.read(chartFile(c.version)))) {
		files[f.name] = string(f.data)
	}
	for _, name := range images {
		if strings.Count(install, c.ref(name)+"@"+c.digests[name]+"\n") != 1 {
			c.wrong("install.yaml does not have %s@%s once", c.ref(name), c.digests[name])
		}
		if !strings.Contains(files["tenantwire/values.yaml"], "    "+name+": "+c.digests[name]+"\n") {
			c.wrong("the chart's values do not have the digest of %s", name)
		}
	}
	if strings.Contains(install, ":dev\n") {
		c.wrong("install.yaml has images that are not of a release")
	}
	about := files["tenantwire/Chart.yaml"]
	if !strings.Contains(about, "\nappVersion: "+c.version+"\n") || !strings.Contains(about, "\nversion: "+strings.TrimPrefix(c.version, "v")+"\n") {
		c.wrong("the chart is of another version: %s", about)
	}
}

func (c *check) provenance() {
	file := provenanceFile(c.version)
	s := decode[statement](c, file, c.read(file))
	if s.Type != statementType || s.PredicateType != provenanceType {
		c.wrong("%s: a %s of %s", file, s.Type, s.PredicateType)
	}
	want := map[string]string{}
	for _, f := range c.files {
		if f != file && f != sumsFile {
			want[f] = sumBytes(c.read(f))
		}
	}
	for name, digest := range c.digests {
		want[c.ref(name)] = strings.TrimPrefix(digest, "sha256:")
	}
	got := map[string]string{}
	for _, r := range s.Subject {
		got[r.Name] = r.Digest["sha256"]
	}
	if !maps.Equal(got, want) {
		c.wrong("%s: its subjects are not the release's files and images", file)
	}
	modules, err := readSums(filepath.Join(c.root, "go.sum"))
	if err != nil {
		c.wrong("%w", err)
	}
	if n := len(s.Predicate.Build.Resolved); n != len(modules)+1 || s.Predicate.Build.Resolved[0].Digest["gitCommit"] == "" {
		c.wrong("%s: made of %d things, want the commit and %d modules", file, n, len(modules))
	}
}

// member is a file of an archive.
type member struct {
	content
	capability string
}

func (c *check) untar(file string, b []byte) (out []member) {
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			c.wrong("%s: %w", file, err)
			return out
		}
		data, err := io.ReadAll(r)
		if err != nil {
			c.wrong("%s: %w", file, err)
		}
		out = append(out, member{content{h.Name, h.Mode, data}, h.PAXRecords[oci.CapabilityRecord]})
	}
}

func (c *check) gunzip(file string, b []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		b, err = io.ReadAll(r)
	}
	if err != nil {
		c.wrong("%s: %w", file, err)
	}
	return b
}

func (c *check) unzip(file string, b []byte) map[string][]byte {
	out := map[string][]byte{}
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		c.wrong("%s: %w", file, err)
		return out
	}
	for _, f := range r.File {
		h, err := f.Open()
		if err == nil {
			out[f.Name], err = io.ReadAll(h)
		}
		if err != nil {
			c.wrong("%s: %s: %w", file, f.Name, err)
		}
	}
	return out
}
