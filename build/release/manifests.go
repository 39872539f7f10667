package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// edit replaces a text that has to be there exactly once, so that a manifest that changes cannot silently part from the release.
type edit struct{ from, to string }

func (r *release) makeManifests(context.Context) error {
	b, err := os.ReadFile(filepath.Join(r.root, "manifests", "install.yaml"))
	if err != nil {
		return fmt.Errorf("read install.yaml: %w", err)
	}
	install, err := apply(string(b), r.installEdits())
	if err != nil {
		return fmt.Errorf("install.yaml: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.out, "install.yaml"), []byte(install), 0o644); err != nil { //nolint:gosec // manifests are for everybody
		return err
	}
	files, err := r.chart()
	if err != nil {
		return fmt.Errorf("chart: %w", err)
	}
	packed, err := tarball(files, r.created)
	if err != nil {
		return fmt.Errorf("pack the chart: %w", err)
	}
	return os.WriteFile(filepath.Join(r.out, chartFile(r.version)), packed, 0o644) //nolint:gosec // charts are for everybody
}

func chartFile(version string) string {
	return "tenantwire-" + strings.TrimPrefix(version, "v") + ".tgz"
}

// installEdits give the images' names the version, for people, and the digest, which is what counts.
func (r *release) installEdits() (out []edit) {
	for _, name := range images {
		out = append(out, edit{"ghcr.io/tenantwire/" + name + ":dev\n", r.ref(name) + "@" + r.digests[name] + "\n"})
	}
	return out
}

// chart is the chart's files with the version, the registry and the digests.
func (r *release) chart() (files []content, err error) {
	dir := filepath.Join(r.root, "manifests", "chart", "tenantwire")
	edits := map[string][]edit{
		"Chart.yaml": {{"\nversion: 0.1.0-dev\n", "\nversion: " + strings.TrimPrefix(r.version, "v") + "\n"},
			{"\nappVersion: dev\n", "\nappVersion: " + r.version + "\n"}},
		"values.yaml": {{"  registry: ghcr.io/tenantwire ", "  registry: " + r.registry + " "}},
	}
	for _, name := range images {
		edits["values.yaml"] = append(edits["values.yaml"], edit{"\n    " + name + ": \"\"\n", "\n    " + name + ": " + r.digests[name] + "\n"})
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path) //nolint:gosec // a file of the chart
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		text, err := apply(string(b), edits[rel])
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		files = append(files, content{"tenantwire/" + filepath.ToSlash(rel), 0o644, []byte(text)})
		return nil
	})
	return files, err
}

func apply(text string, edits []edit) (string, error) {
	for _, e := range edits {
		if n := strings.Count(text, e.from); n != 1 {
			return "", fmt.Errorf("%q is there %d times, want once", e.from, n)
		}
		text = strings.Replace(text, e.from, e.to, 1)
	}
	return text, nil
}
