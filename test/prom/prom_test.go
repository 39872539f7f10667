package prom

import (
	"regexp"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func TestScaled(t *testing.T) {
	for query, want := range map[string]string{
		"rate(x[5m]) > 10":                        "rate(x[30s]) > 10",
		"changes(a[10m]) + last_over_time(b[1h])": "changes(a[60s]) + last_over_time(b[360s])",
		"time() - x > 240":                        "time() - x > 240",
	} {
		if got := Scaled(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	rules, err := scaledRules()
	if err != nil {
		t.Fatal(err)
	}
	unscaled := regexp.MustCompile(`\[\d+[mhd]`)
	for _, g := range rules["groups"].([]group) {
		for _, r := range g.Rules {
			if unscaled.MatchString(r.Expr) || r.For == "0ms" {
				t.Errorf("%s: for %s: %s", r.Alert, r.For, r.Expr)
			}
		}
	}
}

// A selector that is not understood is refused: Prometheus would scrape everything, or nothing.
func TestJobs(t *testing.T) {
	monitors, err := podMonitors()
	if err != nil || len(monitors) != 2 {
		t.Fatalf("%d PodMonitors, %v", len(monitors), err)
	}
	for _, m := range monitors {
		if jobs, err := m.jobs("pods.json"); err != nil || len(jobs) != 1 {
			t.Errorf("%s: %d jobs, %v", m.Metadata.Name, len(jobs), err)
		}
	}
	for name, s := range map[string]metav1.LabelSelector{
		"empty": {}, "unknown operator": {MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"b"}}}},
	} {
		if rules, err := keep(s); err == nil {
			t.Errorf("%s: %v", name, rules)
		}
	}
	var m podMonitor
	if err := yaml.UnmarshalStrict([]byte("spec: {podMetricsEndpoints: [{path: /other}]}"), &m); err == nil {
		t.Error("an endpoint's path is left out")
	}
}

func TestTargets(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "acme", Name: "web", Labels: map[string]string{"tenantwire.dev/tunnel": "main"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}},
			InitContainers: []corev1.Container{{Name: "tenantwire", Ports: []corev1.ContainerPort{{Name: "tw-health", ContainerPort: 51821}}}}}}
	if got := targets(pod); len(got) != 0 {
		t.Errorf("without an address: %v", got)
	}
	pod.Status.PodIP = "10.0.0.1"
	got := targets(pod)
	if len(got) != 1 || !slices.Equal(got[0].Targets, []string{"10.0.0.1:51821"}) {
		t.Fatalf("targets %v", got)
	}
	for label, want := range map[string]string{
		"__meta_kubernetes_namespace": "acme", "__meta_kubernetes_pod_container_port_name": "tw-health",
		"__meta_kubernetes_pod_label_tenantwire_dev_tunnel": "main", "__meta_kubernetes_pod_labelpresent_tenantwire_dev_tunnel": "true",
	} {
		if got[0].Labels[label] != want {
			t.Errorf("%s is %q, want %q", label, got[0].Labels[label], want)
		}
	}
}
