package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const apiHead = "# API reference\n\n" +
	"Every field of the group `%s`, as `kubectl explain` has it too. Made by `make generate` from the types in\n" +
	"[tenant/v1alpha1](../tenant/v1alpha1); change what they say instead. What the objects are for is in [concepts.md](concepts.md).\n\n" +
	"A field that is not required may be left out. `[]` is a list's item. Lists with a key are merged by it, so that several may own parts of one.\n"

// reference describes the fields of every CRD.
func reference(dir string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(dir, "crds", "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find CRDs: no such file (%w)", err)
	}
	var b bytes.Buffer
	for i, f := range files { // Glob sorts
		text, err := os.ReadFile(f) //nolint:gosec // a manifest of ours
		if err != nil {
			return nil, err
		}
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return nil, fmt.Errorf("read %s: %w", f, err)
		}
		if i == 0 {
			fmt.Fprintf(&b, apiHead, crd.Spec.Group+"/"+crd.Spec.Versions[0].Name)
		}
		describeKind(&b, &crd)
	}
	return b.Bytes(), nil
}

func describeKind(b *bytes.Buffer, crd *apiextensions.CustomResourceDefinition) {
	root := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	n := crd.Spec.Names
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n`kubectl get %s`", n.Kind, oneLine(root.Description), n.Plural)
	if len(n.ShortNames) > 0 {
		fmt.Fprintf(b, ", for short `%s`", strings.Join(n.ShortNames, "`, `"))
	}
	fmt.Fprintf(b, "; one is in a namespace. More columns with `-o wide`.\n\n| Field | Type | What |\n| --- | --- | --- |\n")
	for _, part := range []string{"spec", "status"} {
		if s, ok := root.Properties[part]; ok {
			describeField(b, part, &s, slices.Contains(root.Required, part))
		}
	}
}

// describeField is a field's row and those of the fields below it. Those of conditions are the same for all of Kubernetes.
func describeField(b *bytes.Buffer, path string, s *apiextensions.JSONSchemaProps, required bool) {
	fmt.Fprintf(b, "| `%s` | %s | %s |\n", path, kindOf(path, s), cell(s, required))
	at, below := path, s
	if s.Type == "array" && s.Items != nil {
		at, below = path+"[]", s.Items.Schema
	}
	if isConditions(path) {
		return
	}
	for _, name := range sortedFields(below) {
		p := below.Properties[name]
		describeField(b, at+"."+name, &p, slices.Contains(below.Required, name))
	}
}

func isConditions(path string) bool { return strings.HasSuffix(path, ".conditions") }

// sortedFields has those that are required first.
func sortedFields(s *apiextensions.JSONSchemaProps) (out []string) {
	for name := range s.Properties {
		out = append(out, name)
	}
	slices.SortFunc(out, func(a, b string) int {
		ra, rb := slices.Contains(s.Required, a), slices.Contains(s.Required, b)
		switch {
		case ra && !rb:
			return -1
		case rb && !ra:
			return 1
		}
		return strings.Compare(a, b)
	})
	return out
}

func kindOf(path string, s *apiextensions.JSONSchemaProps) string {
	switch {
	case isConditions(path):
		return "list of conditions"
	case s.XIntOrString:
		return "integer or string"
	case s.Type == "array" && s.Items != nil:
		return "list of " + kindOf(path+"[]", s.Items.Schema) + "s"
	case s.Type == "object" && s.AdditionalProperties != nil:
		return "map"
	case s.Format == "date-time":
		return "time"
	}
	return s.Type
}

// cell is what a field means, and what it may be.
func cell(s *apiextensions.JSONSchemaProps, required bool) string {
	parts := []string{oneLine(s.Description)}
	if required {
		parts = append(parts, "Required.")
	}
	if s.Default != nil {
		parts = append(parts, "Default: `"+string(s.Default.Raw)+"`.")
	}
	parts = append(parts, bounds("", s)...)
	if s.Items != nil {
		parts = append(parts, bounds("each ", s.Items.Schema)...)
	}
	if len(s.XListMapKeys) > 0 {
		parts = append(parts, "Key: `"+strings.Join(s.XListMapKeys, "`, `")+"`.")
	}
	rules := s.XValidations
	if s.Items != nil {
		rules = append(slices.Clone(rules), s.Items.Schema.XValidations...)
	}
	for _, r := range rules {
		if r.Message != "" {
			parts = append(parts, "Rule: "+oneLine(r.Message)+".")
		}
	}
	return strings.ReplaceAll(strings.TrimSpace(strings.Join(parts, " ")), "|", `\|`)
}

// bounds are what the schema itself asks of a value.
func bounds(of string, s *apiextensions.JSONSchemaProps) (out []string) {
	say := func(format string, args ...any) {
		text := of + fmt.Sprintf(format, args...)
		out = append(out, strings.ToUpper(text[:1])+text[1:]+".")
	}
	if len(s.Enum) > 0 {
		values := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			values[i] = string(bytes.Trim(v.Raw, `"`))
		}
		say("one of `%s`", strings.Join(values, "`, `"))
	}
	span(say, s.MinItems, s.MaxItems, "items")
	span(say, s.MinLength, s.MaxLength, "characters")
	span(say, s.MinProperties, s.MaxProperties, "entries")
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		say("%s to %s", number(*s.Minimum), number(*s.Maximum))
	case s.Minimum != nil:
		say("at least %s", number(*s.Minimum))
	case s.Maximum != nil:
		say("at most %s", number(*s.Maximum))
	}
	if s.Pattern != "" {
		say("matches `%s`", s.Pattern)
	}
	return out
}

func span(say func(string, ...any), least, most *int64, of string) {
	switch {
	case least != nil && *least > 0 && most != nil:
		say("%d to %d %s", *least, *most, of)
	case most != nil:
		say("at most %d %s", *most, of)
	case least != nil && *least > 0:
		say("at least %d %s", *least, of)
	}
}

// number has no exponent.
func number(f float64) string {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Sprint(f)
	}
	return string(b)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
