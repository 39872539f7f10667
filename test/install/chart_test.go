package install

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	release "helm.sh/helm/v4/pkg/release/v1/util"
	"sigs.k8s.io/yaml"
)

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(filepath.Join(manifests, "chart", "tenantwire"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render is what helm would install with the values of a YAML text, which the schema has seen.
func render(t *testing.T, namespace, values string) (map[string]object, error) {
	t.Helper()
	files, err := renderFiles(t, namespace, values)
	if err != nil {
		return nil, err
	}
	var stream bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		stream.WriteString("---\n" + files[name] + "\n")
	}
	return objects(t, stream.Bytes()), nil
}

// renderFiles is what the chart's templates say, without the notes.
func renderFiles(t *testing.T, namespace, values string) (map[string]string, error) {
	t.Helper()
	vals := map[string]any{}
	if err := yaml.Unmarshal([]byte(values), &vals); err != nil {
		t.Fatal(err)
	}
	c := loadChart(t)
	all, err := util.ToRenderValues(c, vals, common.ReleaseOptions{Name: "tenantwire", Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(files, func(name, _ string) bool { return !strings.HasSuffix(name, ".yaml") })
	return files, nil
}

func mustRender(t *testing.T, namespace, values string) map[string]object {
	t.Helper()
	out, err := render(t, namespace, values)
	if err != nil {
		t.Fatalf("render with %s: %v", values, err)
	}
	return out
}

// With its own values the chart is install.yaml. It does not have the Namespace, which Helm needs to be there before, and it tells
// Helm to leave the CRDs when the release goes.
func TestChartIsInstall(t *testing.T) {
	want := objects(t, read(t, "install.yaml"))
	if len(want) < 15 {
		t.Fatalf("install.yaml has only %d objects", len(want))
	}
	delete(want, "Namespace/"+system)
	got := mustRender(t, system, "")
	for id, o := range got {
		annotations, _ := field(o, "metadata", "annotations").(object)
		if strings.HasPrefix(id, "CustomResourceDefinition/") != (annotations["helm.sh/resource-policy"] == "keep") {
			t.Errorf("%s: annotations %v", id, annotations)
		}
		delete(annotations, "helm.sh/resource-policy")
	}
	if diff := changes(want, got); len(diff) > 0 {
		t.Errorf("the chart differs from install.yaml:\n%s", strings.Join(diff, "\n"))
	}
}

// Nothing in the chart knows its namespace but from Helm.
func TestChartInAnotherNamespace(t *testing.T) {
	got, err := yaml.Marshal(mustRender(t, "elsewhere", ""))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got), system) {
		t.Errorf("%s is still there", system)
	}
	if want, n := strings.Count(string(read(t, "install.yaml")), system), strings.Count(string(got), "elsewhere"); n < want-8 {
		t.Errorf("the namespace is named %d times, install.yaml has it %d times", n, want)
	}
}

// helm uninstall takes the webhook away before whoever answers for it, and what the operator may do before what bounds it.
func TestChartUninstallOrder(t *testing.T) {
	files, err := renderFiles(t, system, "")
	if err != nil {
		t.Fatal(err)
	}
	hooks, sorted, err := release.SortManifests(files, nil, release.UninstallOrder)
	if err != nil || len(hooks) > 0 {
		t.Fatalf("%d hooks, %v", len(hooks), err)
	}
	var kinds []string
	for _, m := range sorted {
		kinds = append(kinds, m.Head.Kind)
	}
	if kinds[0] != "MutatingWebhookConfiguration" {
		t.Errorf("the webhook is not the first: %v", kinds)
	}
	if slices.Index(kinds, "ValidatingAdmissionPolicy") < slices.Index(kinds, "ClusterRoleBinding") {
		t.Errorf("the operator is not bounded for a while: %v", kinds)
	}
}

const (
	digest     = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	deployment = "Deployment/tenantwire-operator: "
	podSpec    = deployment + "spec.template.spec."
	container  = podSpec + "containers.[]."
)

// Each value changes what it should, and nothing else.
func TestChartValues(t *testing.T) {
	before := mustRender(t, system, "")
	const allArgs = container + "args"
	for _, c := range []struct {
		name, values string
		changed      []string
		has          string // an argument of the operator's
	}{
		{"nothing", "", nil, "--shutdown-delay=10s"},
		{"global", "global: {anything: 1}", nil, ""},
		{"replicas", "replicas: 3", []string{deployment + "spec.replicas"}, ""},
		{"registry", "image: {registry: 'registry.example:5000/mirror'}", []string{container + "args.[]", container + "image"}, "--sidecar-image=registry.example:5000/mirror/sidecar:dev"},
		{"tag", "image: {tag: v1.2.3}", []string{container + "args.[]", container + "image"}, "--gateway-image=ghcr.io/tenantwire/gateway:v1.2.3"},
		{"one image", "image: {sidecar: 'example.com/s@sha256:0123'}", []string{container + "args.[]"}, "--sidecar-image=example.com/s@sha256:0123"},
		{"digest", "image: {digests: {operator: '" + digest + "'}}", []string{container + "image"}, ""},
		{"digest of the sidecar", "image: {digests: {sidecar: '" + digest + "'}}", []string{container + "args.[]"}, "--sidecar-image=ghcr.io/tenantwire/sidecar:dev@" + digest},
		{"digest and tag", "image: {tag: v1.2.3, digests: {gateway: '" + digest + "'}}", []string{container + "args.[]", container + "image"},
			"--gateway-image=ghcr.io/tenantwire/gateway:v1.2.3"},
		{"pull policy", "image: {pullPolicy: Always}", []string{container + "imagePullPolicy"}, ""},
		{"pull secrets", "imagePullSecrets: [{name: pull}]", []string{podSpec + "imagePullSecrets"}, ""},
		{"resources", "resources: {limits: {memory: 1Gi}}", []string{container + "resources.limits.memory"}, ""},
		{"no limit", "resources: {limits: null}", []string{container + "resources.limits"}, ""},
		{"node selector", "nodeSelector: {kubernetes.io/arch: amd64}", []string{podSpec + "nodeSelector"}, ""},
		{"tolerations", "tolerations: [{key: control-plane, operator: Exists, effect: NoSchedule}]", []string{podSpec + "tolerations"}, ""},
		{"priority", "priorityClassName: system-cluster-critical", []string{podSpec + "priorityClassName"}, ""},
		{"pod labels", "podLabels: {team: net}", []string{deployment + "spec.template.metadata.labels.team"}, ""},
		{"pod annotations", "podAnnotations: {note: x}", []string{deployment + "spec.template.metadata.annotations.note"}, ""},
		{"log level", "logLevel: debug", []string{allArgs}, "--log-level=debug"},
		{"log format", "logFormat: text", []string{allArgs}, "--log-format=text"},
		{"traces", "otlpEndpoint: 'https://collector.example:4318/v1/traces'", []string{allArgs}, "--otlp-endpoint=https://collector.example:4318/v1/traces"},
		{"of a chart before these", "{image: {digests: null}, logFormat: null, otlpEndpoint: null}", nil, ""}, // as upgrade --reuse-values has them
		{"cluster domain", "clusterDomain: corp.example", []string{container + "args.[]"}, "--cluster-domain=corp.example"},
		{"shutdown delay", "shutdownDelaySeconds: 30", []string{container + "args.[]", podSpec + "terminationGracePeriodSeconds"}, "--shutdown-delay=30s"},
		{"pod security", "podSecurityDefault: restricted", []string{allArgs}, "--pod-security-default=restricted"},
		{"tun", "tunResource: example.com/tun", []string{allArgs}, "--tun-resource=example.com/tun"},
		{"tun for auto", "{tunResource: example.com/tun, tunForAuto: true}", []string{allArgs}, "--tun-for-auto"},
		{"user namespaces", "userNamespaces: Never", []string{allArgs}, "--user-namespaces=Never"},
		{"webhook timeout", "webhookTimeoutSeconds: 10", []string{"MutatingWebhookConfiguration/tenantwire: webhooks.[].timeoutSeconds"}, ""},
		{"external certificate", "certificates: {source: external, secretName: serving, injectCAFrom: tenantwire-system/serving}", []string{
			allArgs, podSpec + "volumes.[].emptyDir", podSpec + "volumes.[].secret", "MutatingWebhookConfiguration/tenantwire: metadata.annotations",
		}, "--cert-source=external"},
		{"no CRDs", "crds: {install: false}", []string{"-CustomResourceDefinition/tenanttunnels.tenantwire.dev",
			"-CustomResourceDefinition/tunnelmembers.tenantwire.dev", "-CustomResourceDefinition/tunnelpeers.tenantwire.dev"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			after := mustRender(t, system, c.values)
			got := changes(before, after)
			slices.Sort(got)
			slices.Sort(c.changed)
			if !slices.Equal(flat(got), flat(c.changed)) {
				t.Errorf("changed:\n%s\nwant:\n%s", strings.Join(flat(got), "\n"), strings.Join(flat(c.changed), "\n"))
			}
			containers, _ := field(after["Deployment/tenantwire-operator"], "spec", "template", "spec", "containers").([]any)
			if args, _ := field(containers[0], "args").([]any); c.has != "" && !slices.Contains(args, any(c.has)) {
				t.Errorf("no argument %s among %v", c.has, args)
			}
		})
	}
}

// flat is a list of places in which each is named once: two arguments that change are one place.
func flat(places []string) []string { return slices.Compact(slices.Clone(places)) }

// With monitoring the chart has manifests/monitoring too, and nothing else.
func TestChartMonitoring(t *testing.T) {
	want, _ := kustomize(t, "monitoring")
	before := mustRender(t, system, "")
	if diff := changes(merged(before, want), mustRender(t, system, "monitoring: {enabled: true}")); len(diff) > 0 {
		t.Errorf("the chart differs from manifests/monitoring:\n%s", strings.Join(diff, "\n"))
	}
	got := mustRender(t, system, "monitoring: {enabled: true, interval: 15s, labels: {release: prometheus}, alerts: false, dashboard: false, sampleLimit: 100000}")
	diff := changes(merged(before, want), got)
	slices.Sort(diff)
	if wanted := []string{"-ConfigMap/tenantwire-dashboard", "-PrometheusRule/tenantwire",
		"PodMonitor/tenantwire-members: metadata.labels.release", "PodMonitor/tenantwire-members: spec.podMetricsEndpoints.[].interval",
		"PodMonitor/tenantwire-members: spec.sampleLimit",
		"PodMonitor/tenantwire-operator: metadata.labels.release", "PodMonitor/tenantwire-operator: spec.podMetricsEndpoints.[].interval",
	}; !slices.Equal(diff, wanted) {
		t.Errorf("changed:\n%s", strings.Join(diff, "\n"))
	}
}

// More labels are on every object, and change nothing but labels; without crds.keep no CRD is kept.
func TestChartEverywhere(t *testing.T) {
	before, after := mustRender(t, system, ""), mustRender(t, system, "{commonLabels: {example.com/team: net, env: prod}, crds: {keep: false}}")
	for id, o := range after {
		labels, _ := field(o, "metadata", "labels").(object)
		if labels["example.com/team"] != "net" || labels["env"] != "prod" {
			t.Errorf("%s: labels %v", id, labels)
		}
	}
	for _, place := range changes(before, after) {
		if _, at, _ := strings.Cut(place, ": "); !strings.HasPrefix(at, "metadata.labels") && at != "metadata.annotations.helm.sh/resource-policy" {
			t.Errorf("changed: %s", place)
		}
	}
}

// What makes no sense is refused before anything is rendered, by the field's name.
func TestChartRefuses(t *testing.T) {
	for values, says := range map[string]string{
		"replica: 2":                                   "replica",
		"replicas: 0":                                  "replicas",
		"replicas: two":                                "replicas",
		"image: {tags: v1}":                            "tags",
		"image: {tag: 'a b'}":                          "tag",
		"image: {registry: ''}":                        "registry",
		"image: {pullPolicy: Sometimes}":               "pullPolicy",
		"image: {sidecar: 'a\nb'}":                     "sidecar",
		"image: {digests: {sidecar: 'sha256:0'}}":      "digests",
		"imagePullSecrets: [pull]":                     "imagePullSecrets",
		"imagePullSecrets: [{name: ''}]":               "imagePullSecrets",
		"resources: {limit: {memory: 1Gi}}":            "limit",
		"resources: {limits: {memory: lots}}":          "memory",
		"tolerations: [{effect: Never}]":               "effect",
		"podLabels: {app.kubernetes.io/name: other}":   "podLabels",
		"podAnnotations: {a: 1}":                       "podAnnotations",
		"commonLabels: {a b: c}":                       "commonLabels",
		"logLevel: trace":                              "logLevel",
		"logFormat: xml":                               "logFormat",
		"otlpEndpoint: 'collector:4318'":               "otlpEndpoint",
		"otlpEndpoint: 'http://a b'":                   "otlpEndpoint",
		"clusterDomain: ''":                            "clusterDomain",
		"shutdownDelaySeconds: 10s":                    "shutdownDelaySeconds",
		"webhookTimeoutSeconds: 31":                    "webhookTimeoutSeconds",
		"podSecurityDefault: Restricted":               "podSecurityDefault",
		"tunResource: tun":                             "tunResource",
		"tunForAuto: true":                             "tunResource",
		"userNamespaces: Sometimes":                    "userNamespaces",
		"certificates: {source: external}":             "secretName",
		"certificates: {secretName: serving}":          "secretName",
		"certificates: {source: cert-manager}":         "source",
		"certificates: {injectCAFrom: x/y}":            "injectCAFrom",
		"crds: {keep: 'yes'}":                          "keep",
		"monitoring: {enabled: true, interval: often}": "interval",
	} {
		if _, err := render(t, system, values); err == nil {
			t.Errorf("%s: accepted", values)
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: does not name %s: %v", values, says, err)
		}
	}
}

// Every value is known to the schema, and every one of the schema's is in values.yaml, at every level.
func TestChartSchemaIsComplete(t *testing.T) {
	c := loadChart(t)
	var schema object
	if err := yaml.Unmarshal(c.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	var compare func(at string, values, schema any)
	compare = func(at string, values, schema any) {
		properties, ok := field(schema, "properties").(object)
		if !ok {
			return
		}
		if field(schema, "additionalProperties") != false {
			t.Errorf("%s takes unknown fields", at)
		}
		for name, s := range properties {
			value, ok := field(values, name), false
			if m, is := values.(object); is {
				_, ok = m[name]
			}
			if !ok && name != "global" {
				t.Errorf("%s.%s is not in values.yaml", at, name)
			}
			if d, _ := field(s, "description").(string); d == "" && at != ".resources" {
				t.Errorf("%s.%s has no description", at, name)
			}
			compare(at+"."+name, value, s)
		}
	}
	compare("", c.Values, schema)
}
