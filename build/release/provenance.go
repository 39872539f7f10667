package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The statement of how the files came to be: in-toto's Statement v1 with SLSA's Provenance v1. It is not signed; whoever publishes a release
// signs it. What makes it worth something besides is that anybody can make the same files again.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     provenance `json:"predicate"`
}

type provenance struct {
	Build struct {
		Type     string            `json:"buildType"`
		External map[string]string `json:"externalParameters"`
		Internal map[string]string `json:"internalParameters"`
		Resolved []resource        `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	Run struct {
		Builder struct {
			ID      string            `json:"id"`
			Version map[string]string `json:"version"`
		} `json:"builder"`
	} `json:"runDetails"`
}

// resource is a file, an image, a commit or a module. Digests are hexadecimal; dirHash1 is what go.sum calls h1.
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

const (
	statementType  = "https://in-toto.io/Statement/v1"
	provenanceType = "https://slsa.dev/provenance/v1"
	sumsFile       = "SHA256SUMS"
)

func provenanceFile(version string) string { return "tenantwire-" + version + ".intoto.json" }

func (r *release) attest(context.Context) error {
	s := statement{Type: statementType, PredicateType: provenanceType}
	files, err := filesOf(r.out)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f == sumsFile { // it is written last
			continue
		}
		sum, err := sumOf(filepath.Join(r.out, f))
		if err != nil {
			return err
		}
		s.Subject = append(s.Subject, resource{Name: f, Digest: map[string]string{"sha256": sum}})
	}
	for _, name := range images {
		s.Subject = append(s.Subject, resource{Name: r.ref(name), Digest: map[string]string{"sha256": strings.TrimPrefix(r.digests[name], "sha256:")}})
	}
	b := &s.Predicate.Build
	b.Type = source + "/blob/main/docs/release.md"
	b.External = map[string]string{"version": r.version, "registry": r.registry}
	b.Internal = map[string]string{"go": goVersion(), "uncommittedChanges": fmt.Sprint(r.changed)}
	b.Resolved = []resource{{URI: "git+" + source + "@" + r.commit, Digest: map[string]string{"gitCommit": r.commit}}}
	modules, err := readSums(filepath.Join(r.root, "go.sum"))
	if err != nil {
		return err
	}
	b.Resolved = append(b.Resolved, modules...)
	s.Predicate.Run.Builder.ID = source + "/tree/main/build/release"
	s.Predicate.Run.Builder.Version = map[string]string{"go": goVersion()}
	return writeJSON(filepath.Join(r.out, provenanceFile(r.version)), s)
}

// readSums are the modules that a go.sum holds whole, which are those that may be built from.
func readSums(file string) (out []resource, err error) {
	b, err := os.ReadFile(file) //nolint:gosec // ours
	if err != nil {
		return nil, fmt.Errorf("read modules: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 || strings.HasSuffix(f[1], "/go.mod") {
			continue
		}
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(f[2], "h1:"))
		if err != nil || !strings.HasPrefix(f[2], "h1:") {
			return nil, fmt.Errorf("%s: %q is not a sum of the kind h1", file, f[2])
		}
		out = append(out, resource{URI: "pkg:golang/" + f[0] + "@" + f[1], Digest: map[string]string{"dirHash1": hex.EncodeToString(sum)}})
	}
	return out, nil
}

// sums writes what `sha256sum -c` takes.
func (r *release) sums(context.Context) error {
	files, err := filesOf(r.out)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range files {
		if f == sumsFile { // it is written last
			continue
		}
		sum, err := sumOf(filepath.Join(r.out, f))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s  %s\n", sum, f)
	}
	return os.WriteFile(filepath.Join(r.out, sumsFile), []byte(b.String()), 0o644) //nolint:gosec // for everybody
}

// filesOf are the names of a folder's files, sorted.
func filesOf(dir string) (out []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out, nil
}
