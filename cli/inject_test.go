package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

const injectTunnel = `
apiVersion: tenantwire.dev/v1alpha1
kind: TenantTunnel
metadata: {name: net, namespace: acme}
spec: {datapath: Netstack, expose: [{service: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: acme}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

const injectPods = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      futureField: kept
      containers: [{name: app, image: "example.com/web:1", ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: List
items:
- apiVersion: batch/v1
  kind: CronJob
  metadata: {name: report}
  spec:
    schedule: "0 0 * * *"
    jobTemplate: {spec: {template: {spec: {containers: [{name: app, image: "example.com/report:1"}], restartPolicy: Never}}}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {a: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: outside, annotations: {tenantwire.dev/inject: "false"}}
spec: {containers: [{name: app, image: "example.com/outside:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: acme}
spec: {hostNetwork: true, containers: [{name: app, image: "example.com/host:1"}]}
`

// injects runs inject over texts: pods, and a file of surroundings.
func injects(t *testing.T, pods, around string, args ...string) (code int, out, errOut string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "around.yaml")
	must(t, os.WriteFile(file, []byte(around), 0o600))
	var o, e bytes.Buffer
	code = Run(t.Context(), "test", append([]string{"inject", "-n", "acme", "-f", "-", "--tunnel", file}, args...), Streams{In: strings.NewReader(pods), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

func TestInject(t *testing.T) {
	code, out, errOut := injects(t, injectPods, injectTunnel)
	if code != ExitDenied {
		t.Errorf("code %d, want %d, as a pod is refused", code, ExitDenied)
	}
	golden(t, "testdata/inject.txtar", []txtar.File{{Name: "output", Data: []byte(out)}, {Name: "error output", Data: []byte(errOut)}})

	pods, _, _ := strings.Cut(injectPods, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: host")
	code, once, errOut := injects(t, pods, injectTunnel)
	if code != ExitOK {
		t.Errorf("code %d: %s", code, errOut)
	}
	if code, twice, errOut := injects(t, once, injectTunnel); code != ExitOK || twice != once {
		t.Errorf("what was injected is changed by a second time, or refused (%d): %s", code, errOut)
	}
}

func TestInjectDependsOnTheNamespace(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: i}]}\n"
	namespace := func(labels string) string {
		return injectTunnel + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: acme, labels: {" + labels + "}}\n"
	}
	for name, c := range map[string]struct {
		around, says string
		code         int
		args         []string
	}{
		"no Namespace":             {injectTunnel, "Inject (Injected)", ExitOK, nil},
		"not opted in":             {namespace(""), "Skip (NamespaceNotOptedIn)", ExitOK, nil},
		"opted in":                 {namespace("tenantwire.dev/inject: enabled"), "Inject (Injected)", ExitOK, nil},
		"without a tunnel":         {"", "Deny (NoTunnel)", ExitDenied, nil},
		"a datapath that may not":  {strings.Replace(injectTunnel, "Netstack", "Kernel", 1), "Deny (DatapathForbidden)", ExitDenied, []string{"--pod-security-default=restricted"}},
		"a datapath that may":      {strings.Replace(injectTunnel, "Netstack", "Kernel", 1), "datapath Kernel with NET_ADMIN", ExitOK, nil},
		"a tunnel elsewhere":       {strings.ReplaceAll(injectTunnel, "acme", "other"), "Deny (NoTunnel)", ExitDenied, nil},
		"a warning":                {strings.Replace(injectTunnel, "Netstack", "Auto", 1), "warning: tenantwire: datapath Auto: Netstack", ExitOK, []string{"--pod-security-default=baseline"}},
		"a mistyped field":         {strings.Replace(injectTunnel, "datapath", "datapth", 1), `unknown field "datapth"`, ExitFailed, nil},
		"a level that there isn't": {injectTunnel, "default Pod Security level", ExitUsage, []string{"--pod-security-default=none"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errOut := injects(t, pod, c.around, c.args...)
			if code != c.code || !strings.Contains(errOut, c.says) {
				t.Errorf("code %d, %q; want %d, %q", code, errOut, c.code, c.says)
			}
		})
	}
}

func TestInjectReadsNoNonsense(t *testing.T) {
	for text, says := range map[string]string{
		"a: [":                                   "object 1",
		"kind: Pod":                              "apiVersion and kind must be set",
		"apiVersion: apps/v1\nkind: Deployment":  "spec.template is not set",
		"apiVersion: v1\nkind: List\nitems: [7]": "items[0]: apiVersion and kind must be set",
		"apiVersion: v1\nkind: Pod\nspec: {containers: 7}":          "Deny (InvalidPod)",
		"apiVersion: v1\nkind: Pod\nmetadata: 7\nspec: {}":          "Deny (InvalidPod)",
		"apiVersion: v1\nkind: Service\nspec: {ports: [{port: x}]}": "Service acme/?",
	} {
		if code, out, errOut := injects(t, text, injectTunnel); code == ExitOK || out != "" || !strings.Contains(errOut, says) {
			t.Errorf("%q: %d, %q, %q; want %q", text, code, out, errOut, says)
		}
	}
	if code, _, errOut := try(t, "inject"); code != ExitUsage || !strings.Contains(errOut, "--filename") {
		t.Errorf("no file: %d %q", code, errOut)
	}
	if code, _, errOut := try(t, "inject", "-f", "/nonexistent"); code != ExitFailed || !strings.Contains(errOut, "/nonexistent") {
		t.Errorf("no such file: %d %q", code, errOut)
	}
}

// FuzzManifests: whatever is in a file, inject says something and does not panic.
func FuzzManifests(f *testing.F) {
	f.Add(injectPods)
	f.Add(injectTunnel)
	f.Add("apiVersion: v1\nkind: List\nitems: [{}]")
	f.Fuzz(func(t *testing.T, text string) {
		var o, e bytes.Buffer
		if code := Run(t.Context(), "test", []string{"inject", "-f", "-"}, Streams{In: strings.NewReader(text), Out: &o, Err: &e}); code != ExitOK && e.Len() == 0 {
			t.Errorf("code %d and not a word", code)
		}
	})
}
