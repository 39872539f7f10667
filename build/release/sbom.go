package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A bill of materials is CycloneDX 1.6: what Go itself wrote into the program, so that nothing can be linked and not listed. The fields
// are those that we use of https://cyclonedx.org/docs/1.6/json.
type bom struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     bomMetadata  `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type bomMetadata struct {
	Timestamp time.Time `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string         `json:"type"`
	Ref        string         `json:"bom-ref"`
	Name       string         `json:"name"`
	Version    string         `json:"version"`
	PURL       string         `json:"purl"`
	Hashes     []bomHash      `json:"hashes,omitempty"`
	Licenses   []bomLicence   `json:"licenses"`
	Properties []nameAndValue `json:"properties,omitempty"`
}

type bomHash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type bomLicence struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type nameAndValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

func bomFile(p program, version string) string {
	return fmt.Sprintf("%s-%s-%s.cdx.json", strings.TrimSuffix(programFile(program{p.name, platform{}, ""}), ".exe"), version, p.platform)
}

// describe writes a bill of materials of each program, and the licences of all that is in them.
func (r *release) describe(ctx context.Context) error {
	infos := make([]*debug.BuildInfo, len(r.programs))
	modules := map[string]*debug.Module{}
	for i, p := range r.programs {
		info, err := buildinfo.ReadFile(p.file)
		if err != nil {
			return fmt.Errorf("read what is in %s: %w", p.label(), err)
		}
		infos[i] = info
		for _, m := range info.Deps {
			if m.Replace != nil {
				return fmt.Errorf("%s contains %s in place of %s: what is released is what it says", p.label(), m.Replace.Path, m.Path)
			}
			modules[m.Path] = m
		}
	}
	licences, err := r.findLicences(ctx, slices.SortedFunc(maps.Values(modules), func(a, b *debug.Module) int { return strings.Compare(a.Path, b.Path) }))
	if err != nil {
		return err
	}
	for i, p := range r.programs {
		b, err := r.bill(p, infos[i], licences)
		if err != nil {
			return fmt.Errorf("list what is in %s: %w", p.label(), err)
		}
		if err := writeJSON(filepath.Join(r.out, bomFile(p, r.version)), b); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(r.out, noticesFile), notices(licences), 0o644) //nolint:gosec // for everybody
}

func (r *release) bill(p program, info *debug.BuildInfo, licences map[string]licence) (*bom, error) {
	sum, err := sumOf(p.file)
	if err != nil {
		return nil, err
	}
	self := newComponent("application", info.Path, r.version, []string{"Apache-2.0"})
	self.Hashes = []bomHash{{"SHA-256", sum}}
	self.Properties = []nameAndValue{{"tenantwire:platform", p.platform.String()}, {"tenantwire:commit", r.commit}}
	b := &bom{Format: "CycloneDX", SpecVersion: "1.6", Version: 1, Metadata: bomMetadata{r.created, self}}
	d := dependency{Ref: self.Ref}
	add := func(path, version, sum string) error {
		l, ok := licences[path+"@"+version]
		if !ok {
			return fmt.Errorf("%s %s is linked, and not what go list finds", path, version)
		}
		c := newComponent("library", path, version, l.ids)
		if sum != "" {
			c.Properties = []nameAndValue{{"tenantwire:go.sum", sum}}
		}
		b.Components, d.DependsOn = append(b.Components, c), append(d.DependsOn, c.Ref)
		return nil
	}
	if err := add("std", info.GoVersion, ""); err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		if err := add(m.Path, m.Version, m.Sum); err != nil {
			return nil, err
		}
	}
	b.Dependencies = []dependency{d}
	return b, nil
}

func newComponent(kind, path, version string, licences []string) component {
	purl := "pkg:golang/" + path + "@" + strings.TrimPrefix(version, "go")
	c := component{Type: kind, Ref: purl, Name: path, Version: version, PURL: purl}
	for _, id := range licences {
		var l bomLicence
		l.License.ID = id
		c.Licenses = append(c.Licenses, l)
	}
	return c
}

func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644) //nolint:gosec // releases are for everybody
}
