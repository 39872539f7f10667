package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// template is one file of the chart: a manifest, with what the chart's values say in the places of what the manifest says. So the
// manifests stay the only source, and a chart of default values is the same installation.
type template struct {
	name  string // in the chart's templates
	piece string // pattern of its manifests
	when  string // the condition that it depends on; empty: always there
	edits []edit
}

// edit replaces a text that has to be there exactly once, so that a manifest that changes cannot silently part from its values.
type edit struct{ from, to string }

// chart are the templates. The namespace is not among them: Helm needs it before it can install anything, and makes it if asked.
var chart = []template{
	{"crds.yaml", "crds/*.yaml", ".Values.crds.install", nil},
	{"account.yaml", "operator/10-account.yaml", "", nil},
	{"role.yaml", "rbac/role.yaml", "", nil},
	{"tenants.yaml", "operator/20-tenants.yaml", "", nil},
	{"gateways.yaml", "operator/25-gateways.yaml", "", nil},
	{"operator.yaml", "operator/30-operator.yaml", "", operatorEdits},
	{"webhook.yaml", "operator/40-webhook.yaml", "", webhookEdits},
	{"podmonitors.yaml", "monitoring/podmonitors.yaml", ".Values.monitoring.enabled", podMonitorEdits},
	{"alerts.yaml", "monitoring/alerts.yaml", "and .Values.monitoring.enabled .Values.monitoring.alerts", []edit{
		{"  labels:\n    app.kubernetes.io/part-of: tenantwire\n", "  labels:\n" + block("monitoring.labels", 4) + "    app.kubernetes.io/part-of: tenantwire\n"}}},
}

var operatorEdits = []edit{
	{"\n  replicas: 2\n", "\n  replicas: {{ .Values.replicas }}\n"},
	{"        app.kubernetes.io/part-of: tenantwire\n      annotations:\n        kubectl.kubernetes.io/default-container: operator\n",
		"        app.kubernetes.io/part-of: tenantwire\n" + block("podLabels", 8) +
			"      annotations:\n        kubectl.kubernetes.io/default-container: operator\n" + block("podAnnotations", 8)},
	{"      serviceAccountName: tenantwire-operator\n", "      serviceAccountName: tenantwire-operator\n" +
		optional("imagePullSecrets") + optional("nodeSelector") + optional("tolerations") + optional("priorityClassName")},
	{"terminationGracePeriodSeconds: 30\n", "terminationGracePeriodSeconds: {{ add (int .Values.shutdownDelaySeconds) 20 }}\n"},
	{"image: ghcr.io/tenantwire/operator:dev\n", "image: {{ include \"tenantwire.image\" (list . \"operator\") }}\n" +
		"        {{- with .Values.image.pullPolicy }}\n        imagePullPolicy: {{ . }}\n        {{- end }}\n"},
	{"--sidecar-image=ghcr.io/tenantwire/sidecar:dev\n", "--sidecar-image={{ include \"tenantwire.image\" (list . \"sidecar\") }}\n"},
	{"--gateway-image=ghcr.io/tenantwire/gateway:dev\n", "--gateway-image={{ include \"tenantwire.image\" (list . \"gateway\") }}\n"},
	{"--cluster-domain=cluster.local\n", "--cluster-domain={{ .Values.clusterDomain }}\n"},
	{"--shutdown-delay=10s\n", "--shutdown-delay={{ .Values.shutdownDelaySeconds }}s\n{{- include \"tenantwire.args\" . }}\n"},
	{"        resources:\n          requests:\n            cpu: 50m\n            memory: 64Mi\n          limits:\n            memory: 512Mi\n",
		"        resources: {{- toYaml .Values.resources | nindent 10 }}\n"},
	{"        emptyDir:\n          medium: Memory\n          sizeLimit: 1Mi\n",
		"        {{- if eq .Values.certificates.source \"external\" }}\n        secret:\n          secretName: {{ .Values.certificates.secretName }}\n" +
			"        {{- else }}\n        emptyDir:\n          medium: Memory\n          sizeLimit: 1Mi\n        {{- end }}\n"},
}

var webhookEdits = []edit{
	{"\nwebhooks:\n", "\n  {{- with .Values.certificates.injectCAFrom }}\n  annotations:\n    cert-manager.io/inject-ca-from: {{ . }}\n  {{- end }}\nwebhooks:\n"},
	{"timeoutSeconds: 5\n", "timeoutSeconds: {{ .Values.webhookTimeoutSeconds }}\n"},
}

var podMonitorEdits = []edit{
	{"  name: tenantwire-operator\n  namespace: tenantwire-system\n  labels:\n",
		"  name: tenantwire-operator\n  namespace: tenantwire-system\n  labels:\n" + block("monitoring.labels", 4)},
	{"  name: tenantwire-members\n  namespace: tenantwire-system\n  labels:\n",
		"  name: tenantwire-members\n  namespace: tenantwire-system\n  labels:\n" + block("monitoring.labels", 4)},
	{"port: metrics\n    interval: 30s\n", "port: metrics\n    interval: {{ .Values.monitoring.interval }}\n"},
	{"port: tw-health\n    interval: 30s\n", "port: tw-health\n    interval: {{ .Values.monitoring.interval }}\n"},
	{"sampleLimit: 20000\n", "sampleLimit: {{ int .Values.monitoring.sampleLimit }}\n"},
}

// block is the entries of a map, below others.
func block(value string, indent int) string {
	space := strings.Repeat(" ", indent)
	return fmt.Sprintf("%s{{- with .Values.%s }}\n%s{{- toYaml . | nindent %d }}\n%s{{- end }}\n", space, value, space, indent, space)
}

// optional is a field of the pod's that is not there while its value is empty.
func optional(value string) string {
	return fmt.Sprintf("      {{- with .Values.%s }}\n      %s: {{- toYaml . | nindent 8 }}\n      {{- end }}\n", value, value)
}

var (
	partOf    = regexp.MustCompile(`(?m)^    app\.kubernetes\.io/part-of: tenantwire$`)
	unlabeled = regexp.MustCompile(`(?m)^metadata:\n(  annotations:\n    .*\n)?  name: .*\n(  namespace: .*\n)?(rules|spec):$`)
	notes     = regexp.MustCompile(`(?m)^metadata:\n  annotations:$`)
)

// chartFiles are the chart's generated templates by path below dir.
func chartFiles(dir string) (map[string][]byte, error) {
	out := make(map[string][]byte, len(chart))
	for _, t := range chart {
		b, err := t.render(dir)
		if err != nil {
			return nil, fmt.Errorf("make template %s: %w", t.name, err)
		}
		out[filepath.Join("chart", "tenantwire", "templates", t.name)] = b
	}
	// Helm reads only what is in the chart.
	dashboard, err := os.ReadFile(filepath.Join(dir, "monitoring", "dashboard.json")) //nolint:gosec // a manifest of ours
	if err != nil {
		return nil, fmt.Errorf("read the dashboard: %w", err)
	}
	out[filepath.Join("chart", "tenantwire", "dashboard.json")] = dashboard
	return out, nil
}

func (t template) render(dir string) ([]byte, error) {
	raw, err := concat(dir, t.piece)
	if err != nil {
		return nil, err
	}
	s := escape(string(raw))
	for _, e := range t.edits {
		if n := strings.Count(s, e.from); n != 1 {
			return nil, fmt.Errorf("%s has %q %d times, want once", t.piece, e.from, n)
		}
		s = strings.Replace(s, e.from, e.to, 1)
	}
	s = strings.ReplaceAll(s, "tenantwire-system", "{{ .Release.Namespace }}")
	s = partOf.ReplaceAllString(s, `$0{{ include "tenantwire.moreLabels" . }}`)
	s = unlabeled.ReplaceAllStringFunc(s, func(head string) string {
		at := strings.LastIndex(head, "\n")
		return head[:at] + `{{ include "tenantwire.labels" . }}` + head[at:]
	})
	if t.name == "crds.yaml" {
		s = notes.ReplaceAllString(s, "$0\n    {{- if .Values.crds.keep }}\n    helm.sh/resource-policy: keep\n    {{- end }}")
	}
	var b bytes.Buffer
	b.WriteString("{{- /* Made by `go run ./manifests/gen` from manifests/" + t.piece + "; change that instead. */}}\n")
	if t.when != "" {
		s = "{{- if " + t.when + " }}\n" + s + "{{- end }}\n"
	}
	b.WriteString(s)
	return b.Bytes(), nil
}

// escape keeps what other templates than Helm's are in a manifest.
func escape(s string) string { return strings.ReplaceAll(s, "{{", "{{ \"{{\" }}") }

func write(dir string, files map[string][]byte) error {
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil { //nolint:gosec // manifests are for everybody
			return err
		}
	}
	return nil
}
