package manifests_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// accepted are changes that an object of before may not survive, and why they were made all the same. A release empties it.
var accepted = map[string]string{}

// What was valid under the CRDs of the version before, in testdata/previous, is valid under these, means the same, and loses nothing. A
// release replaces the files there.
func TestCRDsStayCompatible(t *testing.T) {
	files, err := filepath.Glob("testdata/previous/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("the version before has %d CRDs: %v", len(files), err)
	}
	used := map[string]bool{}
	for _, f := range files {
		was, is := readCRD(t, f), readCRD(t, filepath.Join("crds", filepath.Base(f)))
		for _, c := range compareCRDs(was, is) {
			if _, ok := accepted[c]; !ok {
				t.Errorf("%s", c)
			}
			used[c] = true
		}
	}
	for c := range accepted {
		if !used[c] {
			t.Errorf("accepted, and not so: %s", c)
		}
	}
}

func readCRD(t *testing.T, file string) *apiextensions.CustomResourceDefinition {
	t.Helper()
	b, err := os.ReadFile(file) //nolint:gosec // a manifest of ours
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensions.CustomResourceDefinition
	if err := yaml.Unmarshal(b, &crd); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return &crd
}

// changes are found by comparing two schemas.
type changes []string

func (c *changes) add(path, format string, args ...any) {
	*c = append(*c, path+": "+fmt.Sprintf(format, args...))
}

func compareCRDs(was, is *apiextensions.CustomResourceDefinition) (out changes) {
	name := was.Spec.Names.Kind
	if was.Spec.Scope != is.Spec.Scope || was.Spec.Group != is.Spec.Group || was.Spec.Names.Plural != is.Spec.Names.Plural || was.Spec.Names.Kind != is.Spec.Names.Kind {
		out.add(name, "it has another name, group or scope")
	}
	for _, short := range was.Spec.Names.ShortNames {
		if !slices.Contains(is.Spec.Names.ShortNames, short) {
			out.add(name, "the short name %s is gone", short)
		}
	}
	for _, v := range was.Spec.Versions {
		at := slices.IndexFunc(is.Spec.Versions, func(w apiextensions.CustomResourceDefinitionVersion) bool { return w.Name == v.Name })
		if at < 0 || v.Served && !is.Spec.Versions[at].Served {
			out.add(name, "the version %s is not served", v.Name)
			continue
		}
		w := is.Spec.Versions[at]
		if !reflect.DeepEqual(v.Subresources, w.Subresources) {
			out.add(name, "other subresources")
		}
		out.compare(name, v.Schema.OpenAPIV3Schema, w.Schema.OpenAPIV3Schema)
	}
	return out
}

func (c *changes) compare(path string, was, is *apiextensions.JSONSchemaProps) {
	if was.Type != is.Type || was.Format != is.Format || was.XIntOrString != is.XIntOrString {
		c.add(path, "the type %s%s became %s%s", was.Type, was.Format, is.Type, is.Format)
	}
	if !reflect.DeepEqual(was.XListType, is.XListType) || !slices.Equal(was.XListMapKeys, is.XListMapKeys) || !reflect.DeepEqual(was.XMapType, is.XMapType) {
		c.add(path, "it is merged in another way")
	}
	if raw(was.Default) != raw(is.Default) {
		c.add(path, "the default %s became %s", raw(was.Default), raw(is.Default))
	}
	c.compareBounds(path, was, is)
	for _, name := range is.Required {
		if p, ok := is.Properties[name]; !slices.Contains(was.Required, name) && (!ok || p.Default == nil) {
			c.add(path, "%s became required", name)
		}
	}
	for _, r := range is.XValidations {
		if !slices.ContainsFunc(was.XValidations, func(o apiextensions.ValidationRule) bool { return o.Rule == r.Rule }) {
			c.add(path, "a new rule: %s", r.Message)
		}
	}
	for _, name := range sortedNames(was.Properties) {
		a, b := was.Properties[name], is.Properties[name]
		if _, ok := is.Properties[name]; !ok {
			c.add(path+"."+name, "it is gone")
			continue
		}
		c.compare(path+"."+name, &a, &b)
	}
	if was.Items != nil && is.Items != nil {
		c.compare(path+"[]", was.Items.Schema, is.Items.Schema)
	}
	if was.AdditionalProperties != nil && is.AdditionalProperties != nil && was.AdditionalProperties.Schema != nil && is.AdditionalProperties.Schema != nil {
		c.compare(path+"{}", was.AdditionalProperties.Schema, is.AdditionalProperties.Schema)
	}
}

func (c *changes) compareBounds(path string, was, is *apiextensions.JSONSchemaProps) {
	for _, b := range []struct {
		name    string
		was, is *int64
		least   bool
	}{
		{"minItems", was.MinItems, is.MinItems, true}, {"maxItems", was.MaxItems, is.MaxItems, false},
		{"minLength", was.MinLength, is.MinLength, true}, {"maxLength", was.MaxLength, is.MaxLength, false},
		{"minProperties", was.MinProperties, is.MinProperties, true}, {"maxProperties", was.MaxProperties, is.MaxProperties, false},
		{"minimum", whole(was.Minimum), whole(is.Minimum), true}, {"maximum", whole(was.Maximum), whole(is.Maximum), false},
	} {
		if b.is != nil && (b.was == nil || b.least && *b.is > *b.was || !b.least && *b.is < *b.was) {
			c.add(path, "%s became %d", b.name, *b.is)
		}
	}
	if is.Pattern != "" && is.Pattern != was.Pattern {
		c.add(path, "the pattern became %s", is.Pattern)
	}
	for _, v := range was.Enum {
		if len(is.Enum) > 0 && !slices.ContainsFunc(is.Enum, func(w apiextensions.JSON) bool { return bytes.Equal(v.Raw, w.Raw) }) {
			c.add(path, "the value %s is gone", v.Raw)
		}
	}
	if len(was.Enum) == 0 && len(is.Enum) > 0 {
		c.add(path, "only some values are left")
	}
}

func whole(f *float64) *int64 {
	if f == nil {
		return nil
	}
	n := int64(*f)
	return &n
}

func raw(j *apiextensions.JSON) string {
	if j == nil {
		return "none"
	}
	return string(j.Raw)
}

func sortedNames(m map[string]apiextensions.JSONSchemaProps) (out []string) {
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Each way to break an object of before is seen, and what only adds is not one.
func TestCompareCRDs(t *testing.T) {
	for _, c := range []struct {
		name, from, to, want string
	}{
		{"nothing", "", "", ""},
		{"a field is gone", "              mtu:\n", "              mtv:\n", "mtu: it is gone"},
		{"a type", "minimum: 1280\n                type: integer", "minimum: 1280\n                type: number", "became number"},
		{"a lower bound of items", "maxItems: 64", "maxItems: 63", "maxItems became 63"},
		{"a higher bound of items", "maxItems: 64", "maxItems: 65", ""},
		{"a minimum", "minimum: 1280", "minimum: 1281", "minimum became 1281"},
		{"a lower minimum", "minimum: 1280", "minimum: 576", ""},
		{"a value", "                - Kernel\n", "", `the value "Kernel" is gone`},
		{"a default", "default: Auto", "default: TUN", `became "TUN"`},
		{"a pattern", "pattern: ^[a-z]", "pattern: ^[b-z]", "the pattern became"},
		{"a key", "x-kubernetes-list-map-keys:\n                - service\n", "x-kubernetes-list-map-keys:\n                - name\n", "merged in another way"},
		{"a rule", "rule: self != 'localhost' && ", "rule: self != 'localhosts' && ", "a new rule: "},
		{"a version", "    served: true\n", "    served: false\n", "is not served"},
		{"a short name", "    - tt\n", "    - ttt\n", "the short name tt is gone"},
	} {
		b, err := os.ReadFile("testdata/previous/tenantwire.dev_tenanttunnels.yaml")
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if !strings.Contains(text, c.from) {
			t.Errorf("%s: the CRD has no %q", c.name, c.from)
			continue
		}
		var was, is apiextensions.CustomResourceDefinition
		changed := strings.Replace(text, c.from, c.to, 1)
		if err := yaml.Unmarshal(b, &was); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(changed), &is); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := compareCRDs(&was, &is)
		if c.want == "" && len(got) > 0 || c.want != "" && !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, c.want) }) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
