package injector

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the wanted parts of testdata/*.txtar")

// The parts of a golden file. Lists are YAML documents separated by ---; the last two are what is wanted.
const (
	podPart, namespacePart, tunnelsPart, servicesPart = "pod.yaml", "namespace.yaml", "tunnels.yaml", "services.yaml"
	configPart                                        = "config.yaml" // what differs from testConfig
	decisionPart, patchedPart                         = "want-decision.yaml", "want-pod.yaml"
)

// golden is one file: an input, and what it should lead to.
type golden struct {
	path    string
	archive *txtar.Archive
	input   Input
}

func goldens(t testing.TB) []golden {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	var out []golden
	for _, p := range paths {
		archive, err := txtar.ParseFile(p)
		if err != nil {
			t.Fatal(err)
		}
		g := golden{path: p, archive: archive}
		g.load(t)
		out = append(out, g)
	}
	return out
}

func (g *golden) load(t testing.TB) {
	t.Helper()
	g.input = Input{Config: testConfig(), Namespace: testNamespace()}
	parts := map[string]string{}
	for _, f := range g.archive.Files {
		if _, twice := parts[f.Name]; twice {
			t.Fatalf("%s: part %s is there twice", g.path, f.Name)
		}
		parts[f.Name] = string(f.Data)
	}
	for name, text := range parts {
		switch name {
		case podPart:
			raw, err := yaml.YAMLToJSONStrict([]byte(text))
			if err != nil {
				t.Fatalf("%s: %v", g.path, err)
			}
			g.input.Raw = raw
		case configPart:
			if err := yaml.UnmarshalStrict([]byte(text), g.input.Config); err != nil {
				t.Fatalf("%s: %v", g.path, err)
			}
		case namespacePart:
			g.input.Namespace = documents[corev1.Namespace](t, g.path, text)[0].DeepCopy()
		case tunnelsPart:
			g.input.Tunnels = documents[v1alpha1.TenantTunnel](t, g.path, text)
		case servicesPart:
			g.input.Services = documents[corev1.Service](t, g.path, text)
		case decisionPart, patchedPart:
		default:
			t.Fatalf("%s: part %s is not known", g.path, name)
		}
	}
	var err error
	if g.input.Pod, err = ParsePod(g.input.Raw); err != nil {
		t.Fatalf("%s: %v", g.path, err)
	}
}

func documents[T any](t testing.TB, path, text string) []T {
	t.Helper()
	var out []T
	for doc := range strings.SplitSeq(text, "---\n") {
		var v T
		if err := yaml.UnmarshalStrict([]byte(doc), &v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, v)
	}
	return out
}

func (g *golden) wanted(part string) string {
	for _, f := range g.archive.Files {
		if f.Name == part {
			return string(f.Data)
		}
	}
	return ""
}

// TestGolden compares decisions and patched pods with the files, byte by byte.
func TestGolden(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(strings.TrimSuffix(filepath.Base(g.path), ".txtar"), func(t *testing.T) {
			d := Decide(g.input)
			got := map[string]string{decisionPart: toYAML(t, map[string]any{
				"outcome": d.Outcome, "reason": d.Reason, "message": d.Message, "warnings": d.Warnings,
			})}
			if d.Plan != nil {
				patched := mustPatch(t, g.input, d)
				got[patchedPart] = rawYAML(t, patched)
				assertNothingLost(t, g.input.Raw, patched)
				assertIdempotent(t, g.input, patched)
			}
			if d.ViaGateway {
				got[patchedPart] = rawYAML(t, patchEgress(t, g.input))
			}
			if *update {
				g.rewrite(t, got)
				return
			}
			for _, part := range []string{decisionPart, patchedPart} {
				if diff := cmp.Diff(g.wanted(part), got[part]); diff != "" {
					t.Errorf("%s, %s (-want +got; go test -update rewrites it):\n%s", g.path, part, diff)
				}
			}
		})
	}
}

func (g *golden) rewrite(t *testing.T, got map[string]string) {
	t.Helper()
	g.archive.Files = slices.DeleteFunc(g.archive.Files, func(f txtar.File) bool { return f.Name == decisionPart || f.Name == patchedPart })
	for _, part := range []string{decisionPart, patchedPart} {
		if text, ok := got[part]; ok {
			g.archive.Files = append(g.archive.Files, txtar.File{Name: part, Data: []byte(text)})
		}
	}
	if err := os.WriteFile(g.path, txtar.Format(g.archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRestrictedStaysRestricted: what Pod Security admits under restricted it admits after injection too, whatever version.
func TestRestrictedStaysRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	compliant := 0
	for _, g := range goldens(t) {
		if level, _ := podSecurity(g.input.Namespace, Privileged); level != Restricted {
			continue
		}
		d := Decide(g.input)
		if d.Plan == nil || !admits(t, evaluator, api.LevelRestricted, g.input.Pod, false) {
			continue
		}
		compliant++
		pod, err := ParsePod(mustPatch(t, g.input, d))
		if err != nil {
			t.Fatal(err)
		}
		if !admits(t, evaluator, api.LevelRestricted, pod, true) {
			t.Errorf("%s: injection broke restricted", g.path)
		}
	}
	if compliant < 8 {
		t.Errorf("only %d golden pods are restricted before injection: the test proves too little", compliant)
	}
}

// admits says whether Pod Security lets a pod pass at a level.
func admits(t *testing.T, evaluator policy.Evaluator, level api.Level, pod *corev1.Pod, tell bool) bool {
	t.Helper()
	for _, v := range []api.Version{api.LatestVersion(), api.MajorMinorVersion(1, 25)} {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: v}, &pod.ObjectMeta, &pod.Spec))
		if !result.Allowed {
			if tell {
				t.Log(result.ForbiddenDetail())
			}
			return false
		}
	}
	return true
}

func mustPatch(t testing.TB, in Input, d Decision) []byte {
	t.Helper()
	patch, err := Patch(in.Raw, d.Plan)
	if err != nil {
		t.Fatal(err)
	}
	return apply(t, in.Raw, patch)
}

// apply applies a patch as the API server does.
func apply(t testing.TB, raw, patch []byte) []byte {
	t.Helper()
	if patch == nil {
		return raw
	}
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatalf("decode patch: %v\n%s", err, patch)
	}
	out, err := p.Apply(raw)
	if err != nil {
		t.Fatalf("apply patch: %v\n%s\n%s", err, patch, raw)
	}
	return out
}

// assertIdempotent decides on the patched pod: it has to pass, and to stay as it is.
func assertIdempotent(t testing.TB, in Input, patched []byte) {
	t.Helper()
	in.Raw = patched
	var err error
	if in.Pod, err = ParsePod(patched); err != nil {
		t.Fatalf("parse patched pod: %v\n%s", err, patched)
	}
	d := Decide(in)
	if d.Outcome != Inject {
		t.Fatalf("the second time: %s %s: %s\n%s", d.Outcome, d.Reason, d.Message, patched)
	}
	if patch, err := Patch(patched, d.Plan); err != nil || patch != nil {
		t.Fatalf("the second time: patch %s, error %v", patch, err)
	}
}

// assertNothingLost: everything that was in the pod is still there, in its order.
func assertNothingLost(t testing.TB, raw, patched []byte) {
	t.Helper()
	var before, after any
	if err := json.Unmarshal(raw, &before); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(patched, &after); err != nil {
		t.Fatal(err)
	}
	if lost := lostIn("", before, after); lost != "" {
		t.Errorf("%s is lost or changed", lost)
	}
}

func lostIn(path string, before, after any) string {
	switch b := before.(type) {
	case map[string]any:
		a, ok := after.(map[string]any)
		if !ok {
			return path
		}
		for _, k := range slices.Sorted(maps.Keys(b)) {
			if lost := lostIn(path+"."+k, b[k], a[k]); lost != "" {
				return lost
			}
		}
	case []any:
		a, _ := after.([]any)
		next := 0
		for i, e := range b {
			for next < len(a) && lostIn("", e, a[next]) != "" {
				next++
			}
			if next == len(a) {
				return fmt.Sprintf("%s[%d]", path, i)
			}
			next++
		}
	default:
		if before != nil && before != after {
			return path
		}
	}
	return ""
}

func toYAML(t testing.TB, v any) string {
	t.Helper()
	out, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func rawYAML(t testing.TB, raw []byte) string {
	t.Helper()
	out, err := yaml.JSONToYAML(raw)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
