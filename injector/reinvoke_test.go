package injector

import (
	"encoding/json"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

// injectedPod is the pod of testInput after injection: initContainers 0 is ours.
func injectedPod(t testing.TB) (*Input, []byte) {
	t.Helper()
	in := testInput()
	finish(t, in)
	return in, mustPatch(t, *in, Decide(*in))
}

// tampered decides on the injected pod after somebody changed it with a JSON patch.
func tampered(t *testing.T, change string) (Input, Decision) {
	t.Helper()
	in, patched := injectedPod(t)
	p, err := jsonpatch.DecodePatch([]byte(change))
	if err != nil {
		t.Fatal(err)
	}
	if in.Raw, err = p.Apply(patched); err != nil {
		t.Fatal(err)
	}
	if in.Pod, err = ParsePod(in.Raw); err != nil {
		t.Fatal(err)
	}
	return *in, Decide(*in)
}

// TestRestores: what other parts of the mutating chain do to an injected pod between our two turns is undone where it has to be.
func TestRestores(t *testing.T) {
	tests := map[string]string{
		"another webhook goes first": `[{"op":"add","path":"/spec/initContainers/0","value":{"name":"mesh-init","image":"m:1"}}]`,
		"API token is mounted": `[{"op":"add","path":"/spec/initContainers/0/volumeMounts/-","value":
			{"name":"kube-api-access-1","mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","readOnly":true}}]`,
		"variables are added":  `[{"op":"add","path":"/spec/initContainers/0/env/0","value":{"name":"GODEBUG","value":"x"}}]`,
		"variables are loaded": `[{"op":"add","path":"/spec/initContainers/0/envFrom","value":[{"configMapRef":{"name":"x"}}]}]`,
		"a command is added":   `[{"op":"add","path":"/spec/initContainers/0/command","value":["/bin/sh"]}]`,
		"a hook is added":      `[{"op":"add","path":"/spec/initContainers/0/lifecycle","value":{"preStop":{"exec":{"command":["sh"]}}}}]`,
		"capabilities are added": `[{"op":"add","path":"/spec/initContainers/0/securityContext/capabilities/add",
			"value":["NET_ADMIN"]}]`,
		"a volume gets a second source": `[{"op":"add","path":"/spec/volumes/1/hostPath","value":{"path":"/"}}]`,
		"label is gone":                 `[{"op":"remove","path":"/metadata/labels/tenantwire.dev~1tunnel"}]`,
		"aliases are gone":              `[{"op":"remove","path":"/spec/hostAliases"}]`,
		"volumes are gone":              `[{"op":"remove","path":"/spec/volumes"}]`,
	}
	_, want := injectedPod(t)
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			in, d := tampered(t, change)
			if d.Outcome != Inject {
				t.Fatalf("%s: %s", d.Reason, d.Message)
			}
			got := mustPatch(t, in, d)
			assertIdempotent(t, in, got)
			sidecar, wanted := firstInit(t, got), firstInit(t, want)
			if sidecar != wanted {
				t.Errorf("the sidecar is\n%s\nwant\n%s", sidecar, wanted)
			}
			if n := strings.Count(string(got), `"name":"tenantwire"`); n != 1 {
				t.Errorf("%d sidecars", n)
			}
		})
	}
}

// TestLeavesAlone: what others may decide about the sidecar stays.
func TestLeavesAlone(t *testing.T) {
	for name, change := range map[string]string{
		"pull policy":    `[{"op":"replace","path":"/spec/initContainers/0/imagePullPolicy","value":"Always"}]`,
		"limit ranger":   `[{"op":"add","path":"/spec/initContainers/0/resources/limits/cpu","value":"1"}]`,
		"autoscaler":     `[{"op":"replace","path":"/spec/initContainers/0/resources/requests/memory","value":"48Mi"}]`,
		"resize default": `[{"op":"add","path":"/spec/initContainers/0/resizePolicy","value":[{"resourceName":"cpu","restartPolicy":"NotRequired"}]}]`,
	} {
		in, d := tampered(t, change)
		if d.Outcome != Inject {
			t.Fatalf("%s: %s: %s", name, d.Reason, d.Message)
		}
		if patch, err := Patch(in.Raw, d.Plan); err != nil || patch != nil {
			t.Errorf("%s: patch %s, error %v", name, patch, err)
		}
	}
}

// TestRefusesImpostors: what looks like our sidecar and is not keeps the pod out, and the message says what differs.
func TestRefusesImpostors(t *testing.T) {
	for field, change := range map[string]string{
		"image":           `[{"op":"replace","path":"/spec/initContainers/0/image","value":"evil:1"}]`,
		"args":            `[{"op":"add","path":"/spec/initContainers/0/args/-","value":"--coordinator=https://evil"}]`,
		"env":             `[{"op":"replace","path":"/spec/initContainers/0/env/0","value":{"name":"POD_IP","value":"10.0.0.1"}}]`,
		"restartPolicy":   `[{"op":"remove","path":"/spec/initContainers/0/restartPolicy"}]`,
		"securityContext": `[{"op":"replace","path":"/spec/initContainers/0/securityContext/runAsNonRoot","value":false}]`,
		"startupProbe":    `[{"op":"remove","path":"/spec/initContainers/0/startupProbe"}]`,
		"volumeMounts":    `[{"op":"replace","path":"/spec/initContainers/0/volumeMounts/1/mountPath","value":"/tmp"}]`,
		"ports":           `[{"op":"remove","path":"/spec/initContainers/0/ports/0"}]`,
		"projected":       `[{"op":"replace","path":"/spec/volumes/0/projected/sources/0/serviceAccountToken/audience","value":"other"}]`,
		"emptyDir":        `[{"op":"remove","path":"/spec/volumes/1/emptyDir/medium"}]`,
	} {
		if _, d := tampered(t, change); d.Reason != ReservedName || !strings.Contains(d.Message, "."+field) {
			t.Errorf("%s: %s: %s", field, d.Reason, d.Message)
		}
	}
}

func firstInit(t *testing.T, raw []byte) string {
	t.Helper()
	var pod struct {
		Spec struct {
			InitContainers []json.RawMessage `json:"initContainers"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	return rawYAML(t, pod.Spec.InitContainers[0])
}

// TestPatchRefuses what has not the shape of a pod, instead of making one of it.
func TestPatchRefuses(t *testing.T) {
	in, _ := injectedPod(t)
	plan := Decide(*in).Plan
	for _, raw := range []string{``, `null`, `[]`, `{}`, `{"spec":1}`, `{"spec":{"initContainers":{}}}`, `{"spec":{"volumes":[null]}}`,
		`{"metadata":[],"spec":{}}`, `{"spec":{"initContainers":[{"name":"tenantwire"}]}}`} {
		if patch, err := Patch([]byte(raw), plan); err == nil {
			t.Errorf("%s: patch %s", raw, patch)
		}
	}
}
