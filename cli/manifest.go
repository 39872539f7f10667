package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8syaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// manifest is one object of a file. It is kept as it was written, so that fields newer than our types survive.
type manifest struct {
	from                  string // file and number of the object in it
	apiVersion            string
	kind, namespace, name string
	object                map[string]any
}

// maxManifests bounds a file in bytes.
const maxManifests = 64 << 20

// templates is where pods are in objects of other kinds.
var templates = map[string][]string{
	"apps/v1 Deployment": {"spec", "template"}, "apps/v1 ReplicaSet": {"spec", "template"}, "apps/v1 StatefulSet": {"spec", "template"},
	"apps/v1 DaemonSet": {"spec", "template"}, "batch/v1 Job": {"spec", "template"}, "batch/v1 CronJob": {"spec", "jobTemplate", "spec", "template"},
	"v1 ReplicationController": {"spec", "template"}, "v1 PodTemplate": {"template"}, "v1 Pod": {},
}

// parseManifests reads YAML or JSON objects, lists of which are taken apart. Those that name no namespace get the given one.
func parseManifests(name string, r io.Reader, namespace string) (out []manifest, err error) {
	limited := &io.LimitedReader{R: r, N: maxManifests + 1}
	docs := k8syaml.NewYAMLOrJSONDecoder(limited, 4096)
	for n := 1; ; n++ {
		var o map[string]any
		switch err := docs.Decode(&o); {
		case limited.N == 0:
			return nil, fmt.Errorf("%s: it is longer than %d bytes", name, maxManifests)
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("%s: object %d: %w", name, n, err)
		case len(o) == 0:
			continue
		}
		all, err := flatten(fmt.Sprintf("%s: object %d", name, n), o, namespace)
		if err != nil {
			return nil, err
		}
		out = append(out, all...)
	}
}

func flatten(from string, o map[string]any, namespace string) ([]manifest, error) {
	m := manifest{from: from, object: o, namespace: namespace}
	m.apiVersion, _ = o["apiVersion"].(string)
	m.kind, _ = o["kind"].(string)
	if m.apiVersion == "" || m.kind == "" {
		return nil, fmt.Errorf("%s: apiVersion and kind must be set", from)
	}
	if items, ok := o["items"].([]any); ok && strings.HasSuffix(m.kind, "List") {
		var out []manifest
		for i, item := range items {
			o, _ := item.(map[string]any)
			all, err := flatten(fmt.Sprintf("%s, items[%d]", from, i), o, namespace)
			if err != nil {
				return nil, err
			}
			out = append(out, all...)
		}
		return out, nil
	}
	meta, _ := o["metadata"].(map[string]any)
	m.name, _ = meta["name"].(string)
	if ns, _ := meta["namespace"].(string); ns != "" {
		m.namespace = ns
	}
	return []manifest{m}, nil
}

// into reads an object of ours or of Kubernetes strictly: a mistyped field would otherwise be heeded nowhere.
func (m *manifest) into(o any) error {
	b, err := json.Marshal(m.object)
	if err == nil {
		err = yaml.UnmarshalStrict(b, o)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", m.from, m, err)
	}
	return nil
}

// surroundings are what decisions depend on besides the pod, by namespace.
type surroundings struct {
	namespaces map[string]*corev1.Namespace
	tunnels    map[string][]v1alpha1.TenantTunnel
	services   map[string][]corev1.Service
}

func newSurroundings(all []manifest) (*surroundings, error) {
	s := &surroundings{map[string]*corev1.Namespace{}, map[string][]v1alpha1.TenantTunnel{}, map[string][]corev1.Service{}}
	for i := range all {
		m := &all[i]
		switch m.apiVersion + " " + m.kind {
		case v1alpha1.GroupVersion.String() + " TenantTunnel":
			var t v1alpha1.TenantTunnel
			if err := m.into(&t); err != nil {
				return nil, err
			}
			t.Namespace = m.namespace
			s.tunnels[m.namespace] = append(s.tunnels[m.namespace], t)
		case "v1 Service":
			var v corev1.Service
			if err := m.into(&v); err != nil {
				return nil, err
			}
			v.Namespace = m.namespace
			s.services[m.namespace] = append(s.services[m.namespace], v)
		case "v1 Namespace":
			var n corev1.Namespace
			if err := m.into(&n); err != nil {
				return nil, err
			}
			s.namespaces[m.name] = &n
		}
	}
	return s, nil
}

// namespace is the one of that name or, where no file has it, one that is opted in.
func (s *surroundings) namespace(name string) *corev1.Namespace {
	if n := s.namespaces[name]; n != nil {
		return n
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelInject: v1alpha1.InjectEnabled}}}
}

// inject decides on the object's pod, if it has one, and makes it what it would become.
func (m *manifest) inject(s *surroundings, config *injector.Config) (*injector.Decision, error) {
	path, ok := templates[m.apiVersion+" "+m.kind]
	if !ok {
		return nil, nil //nolint:nilnil // there is nothing to decide on
	}
	template := m.object
	for _, field := range path {
		if template, ok = template[field].(map[string]any); !ok {
			return nil, fmt.Errorf("%s: %s is not set", m, strings.Join(path, "."))
		}
	}
	raw, err := podOf(template)
	if err != nil {
		return nil, err
	}
	pod, err := injector.ParsePod(raw)
	if err != nil {
		return &injector.Decision{Outcome: injector.Deny, Reason: injector.InvalidPod, Message: err.Error()}, nil
	}
	d := injector.Decide(injector.Input{Raw: raw, Pod: pod, Namespace: s.namespace(m.namespace), Tunnels: s.tunnels[m.namespace], Services: s.services[m.namespace], Config: config})
	var patch []byte
	switch {
	case d.Plan != nil:
		patch, err = injector.Patch(raw, d.Plan)
	case d.ViaGateway:
		patch, err = injector.PatchViaGateway(raw)
	}
	if err == nil && len(patch) > 0 {
		err = applyPatch(template, raw, patch)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	return &d, nil
}

// podOf is the pod that a template makes.
func podOf(template map[string]any) ([]byte, error) {
	pod := map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{}}
	for _, field := range []string{"metadata", "spec"} {
		if v := template[field]; v != nil {
			pod[field] = v
		}
	}
	return json.Marshal(pod)
}

// applyPatch puts what a patch makes of a pod back into its template.
func applyPatch(template map[string]any, pod, patch []byte) error {
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return err
	}
	patched, err := p.Apply(pod)
	if err != nil {
		return err
	}
	var o map[string]any
	d := json.NewDecoder(bytes.NewReader(patched))
	d.UseNumber() // large numbers stay what they are
	if err := d.Decode(&o); err != nil {
		return err
	}
	template["metadata"], template["spec"] = o["metadata"], o["spec"]
	return nil
}

func (m *manifest) print(w io.Writer) error {
	b, err := json.Marshal(m.object)
	if err == nil {
		b, err = yaml.JSONToYAML(b)
	}
	if err != nil {
		return fmt.Errorf("print %s: %w", m, err)
	}
	_, err = fmt.Fprintf(w, "---\n%s", b)
	return err
}
