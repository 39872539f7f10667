package install

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	manifests = "../../manifests"
	system    = "tenantwire-system"
)

// object is one as YAML holds it.
type object = map[string]any

// read is a file below manifests.
func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(manifests, name)) //nolint:gosec // a manifest of ours
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// objects are those of a YAML stream by kind and name.
func objects(t *testing.T, stream []byte) map[string]object {
	t.Helper()
	out := map[string]object{}
	for doc := range bytes.SplitSeq(append([]byte("\n"), stream...), []byte("\n---\n")) {
		var o object
		if err := yaml.UnmarshalStrict(doc, &o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		name := identify(o)
		if out[name] != nil {
			t.Fatalf("%s is there twice", name)
		}
		out[name] = o
	}
	return out
}

func identify(o object) string {
	kind, _ := o["kind"].(string)
	name, _ := field(o, "metadata", "name").(string)
	return kind + "/" + name
}

// field is what a path leads to; nil: nothing.
func field(o any, path ...string) any {
	for _, p := range path {
		m, ok := o.(object)
		if !ok {
			return nil
		}
		o = m[p]
	}
	return o
}

// changes are the places where two sets of objects differ, as "Kind/name: a.b.c". What is added or gone as a whole is one place.
func changes(before, after map[string]object) []string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(merged(before, after))) {
		switch b, a := before[id], after[id]; {
		case b == nil:
			out = append(out, "+"+id)
		case a == nil:
			out = append(out, "-"+id)
		default:
			out = append(out, differences(id+": ", b, a)...)
		}
	}
	return out
}

func differences(at string, before, after any) []string {
	b, isMap := before.(object)
	a, stillMap := after.(object)
	if isMap && stillMap {
		var out []string
		for _, key := range slices.Sorted(maps.Keys(merged(b, a))) {
			out = append(out, differences(at+key+".", b[key], a[key])...)
		}
		return out
	}
	if equal(before, after) {
		return nil
	}
	if b, ok := before.([]any); ok {
		if a, ok := after.([]any); ok && len(a) == len(b) {
			var out []string
			for i := range b {
				out = append(out, differences(at+"[].", b[i], a[i])...)
			}
			return slices.Compact(out)
		}
	}
	return []string{strings.TrimSuffix(at, ".")}
}

func equal(a, b any) bool {
	x, errA := yaml.Marshal(a)
	y, errB := yaml.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

func merged[V any](a, b map[string]V) map[string]V {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]V{}
	}
	maps.Copy(out, b)
	return out
}
