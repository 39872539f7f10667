package prom

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// scrapeInterval in place of the PodMonitors'.
const scrapeInterval = "1s"

// podMonitor is what a PodMonitor of ours may say. What is not here fails the test, as it would be left out otherwise.
type podMonitor struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Spec struct {
		NamespaceSelector struct{ Any bool }
		Selector          metav1.LabelSelector
		SampleLimit       int
		Endpoints         []endpoint `json:"podMetricsEndpoints"`
	}
}

type endpoint struct {
	Port, Interval string
	HonorLabels    bool
	Relabelings    []relabeling
}

type relabeling struct {
	SourceLabels []string `json:"sourceLabels"`
	TargetLabel  string   `json:"targetLabel"`
}

// object is a piece of Prometheus' configuration.
type object = map[string]any

func podMonitors() (out []podMonitor, err error) {
	b, err := os.ReadFile(filepath.Join(monitoring(), "podmonitors.yaml"))
	if err != nil {
		return nil, err
	}
	for doc := range bytes.SplitSeq(b, []byte("\n---\n")) {
		var m podMonitor
		if err := yaml.UnmarshalStrict(doc, &m); err != nil {
			return nil, fmt.Errorf("podmonitors.yaml: %w", err)
		}
		if m.Kind != "PodMonitor" {
			return nil, fmt.Errorf("podmonitors.yaml: kind %q", m.Kind)
		}
		out = append(out, m)
	}
	return out, nil
}

// jobs are the scrape configurations that the Prometheus operator makes of a PodMonitor, in substance.
func (m podMonitor) jobs(targets string) (out []object, err error) {
	selected, err := keep(m.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("PodMonitor %s: %w", m.Metadata.Name, err)
	}
	if !m.Spec.NamespaceSelector.Any {
		selected = append(selected, object{"source_labels": []string{"__meta_kubernetes_namespace"}, "regex": m.Metadata.Namespace, "action": "keep"})
	}
	for i, e := range m.Spec.Endpoints {
		rules := append(slices.Clone(selected),
			object{"source_labels": []string{"__meta_kubernetes_pod_phase"}, "regex": "(Failed|Succeeded)", "action": "drop"},
			object{"source_labels": []string{"__meta_kubernetes_pod_container_port_name"}, "regex": e.Port, "action": "keep"},
			object{"source_labels": []string{"__meta_kubernetes_namespace"}, "target_label": "namespace"},
			object{"source_labels": []string{"__meta_kubernetes_pod_container_name"}, "target_label": "container"},
			object{"source_labels": []string{"__meta_kubernetes_pod_name"}, "target_label": "pod"},
			object{"target_label": "job", "replacement": m.Metadata.Namespace + "/" + m.Metadata.Name},
			object{"target_label": "endpoint", "replacement": e.Port})
		for _, r := range e.Relabelings {
			rules = append(rules, object{"source_labels": r.SourceLabels, "target_label": r.TargetLabel})
		}
		out = append(out, object{
			"job_name":     fmt.Sprintf("podMonitor/%s/%s/%d", m.Metadata.Namespace, m.Metadata.Name, i),
			"honor_labels": e.HonorLabels, "sample_limit": m.Spec.SampleLimit, "scrape_interval": scrapeInterval, "scrape_timeout": scrapeInterval,
			"file_sd_configs": []object{{"files": []string{targets}}}, "relabel_configs": rules,
		})
	}
	return out, nil
}

// metaLabel is how Prometheus calls a label of a pod, and that there is one.
func metaLabel(key string) (value, present string) {
	key = noLabel.ReplaceAllString(key, "_")
	return "__meta_kubernetes_pod_label_" + key, "__meta_kubernetes_pod_labelpresent_" + key
}

var noLabel = regexp.MustCompile(`[^a-zA-Z0-9_]`)

// keep are the rules that let pods through which a selector selects.
func keep(s metav1.LabelSelector) (out []object, err error) {
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		value, present := metaLabel(key)
		out = append(out, object{"source_labels": []string{value, present}, "regex": "(" + regexp.QuoteMeta(s.MatchLabels[key]) + ");true", "action": "keep"})
	}
	for _, e := range s.MatchExpressions {
		if e.Operator != metav1.LabelSelectorOpExists {
			return nil, fmt.Errorf("selector: operator %s of %s is not known here", e.Operator, e.Key)
		}
		_, present := metaLabel(e.Key)
		out = append(out, object{"source_labels": []string{present}, "regex": "true", "action": "keep"})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("selector: empty, which selects every pod: %s", strings.TrimSpace(s.String()))
	}
	return out, nil
}
