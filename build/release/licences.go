package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// noticesFile has the licences of everything that is linked into the programs: most of them want to be passed on with it.
const noticesFile = "THIRD-PARTY-LICENSES.txt"

// licence is what a module may be used by.
type licence struct {
	ids   []string          // SPDX identifiers, sorted
	texts map[string][]byte // by the names of their files
}

// licenceFiles are the names of files with licences, and of notices that have to be passed on.
var licenceFiles = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|copyright|patents)([-_.].*)?$`)

// known are the licences that our modules have, by words that each has to have and words that it must not have, of its text in small
// letters with single spaces and straight quotes.
var known = []struct {
	id   string
	has  []string
	hasn string
}{
	{"Apache-2.0", []string{"apache license version 2.0, january 2004"}, ""},
	{"MIT", []string{"permission is hereby granted, free of charge, to any person obtaining a copy", "the software is provided \"as is\", without warranty"}, ""},
	{"BSD-3-Clause", []string{"redistribution and use in source and binary forms", "neither the name"}, ""},
	{"BSD-2-Clause", []string{"redistribution and use in source and binary forms"}, "neither the name"},
	{"ISC", []string{"permission to use, copy, modify, and", "distribute this software for any purpose with or without fee is hereby granted"}, ""},
	{"MPL-2.0", []string{"mozilla public license", "version 2.0"}, ""},
}

var straight = strings.NewReplacer("“", `"`, "”", `"`)

// licencesIn are the identifiers of the licences in a text.
func licencesIn(b []byte) (ids []string) {
	text := straight.Replace(strings.Join(strings.Fields(strings.ToLower(string(b))), " "))
	for _, k := range known {
		missing := slices.ContainsFunc(k.has, func(s string) bool { return !strings.Contains(text, s) })
		if !missing && (k.hasn == "" || !strings.Contains(text, k.hasn)) {
			ids = append(ids, k.id)
		}
	}
	return ids
}

// licenceOf reads the licence of a module's folder.
func licenceOf(dir string) (licence, error) {
	l := licence{texts: map[string][]byte{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return l, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceFiles.MatchString(e.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name())) //nolint:gosec // of the module cache
		if err != nil {
			return l, err
		}
		l.texts[e.Name()] = b
		for _, id := range licencesIn(b) {
			if !slices.Contains(l.ids, id) {
				l.ids = append(l.ids, id)
			}
		}
	}
	slices.Sort(l.ids)
	if len(l.ids) == 0 {
		return l, fmt.Errorf("%s has no licence that licences.go knows", dir)
	}
	return l, nil
}

// findLicences reads the licence of each module, and of Go's own library, by module@version.
func (r *release) findLicences(ctx context.Context, modules []*debug.Module) (map[string]licence, error) {
	args := []string{"list", "-m", "-json=Path,Version,Dir"}
	for _, m := range modules {
		args = append(args, m.Path)
	}
	out, err := r.command(ctx, nil, "go", args...)
	if err != nil {
		return nil, err
	}
	found := map[string]licence{}
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read modules: %w", err)
		}
		if found[m.Path+"@"+m.Version], err = licenceOf(m.Dir); err != nil {
			return nil, fmt.Errorf("find the licence of %s: %w", m.Path, err)
		}
	}
	goroot, err := r.command(ctx, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	if found["std@"+goVersion()], err = licenceOf(goroot); err != nil {
		return nil, fmt.Errorf("find Go's licence: %w", err)
	}
	return found, nil
}

// notices are all licences in one text.
func notices(all map[string]licence) []byte {
	var b bytes.Buffer
	b.WriteString("TenantWire's programs contain these modules, whose licences follow. TenantWire itself is under the Apache License 2.0.\n")
	for _, id := range sortedKeys(all) {
		for _, name := range sortedKeys(all[id].texts) {
			fmt.Fprintf(&b, "\n==== %s: %s\n\n%s\n", id, name, bytes.TrimSpace(all[id].texts[name]))
		}
	}
	return b.Bytes()
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
