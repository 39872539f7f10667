package injector

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ownWork plans the injection and compares what the pod has of it already. The chain of the API server runs twice, so that an
// injected pod is normal here, and so are additions by other webhooks, LimitRanger or the ServiceAccount plugin, which mounts the
// pod's API token into the sidecar. What changes something that we set is refused: it may be meant to run in the sidecar's place.
func ownWork(c *candidate) finding {
	c.plan = c.newPlan()
	spec := &c.Pod.Spec
	sidecars := 0
	for i := range spec.InitContainers {
		if spec.InitContainers[i].Name == ContainerName {
			sidecars++
		}
	}
	for i := range spec.Containers {
		if spec.Containers[i].Name == ContainerName {
			return reserved(fmt.Sprintf("spec.containers[%d].name", i), ContainerName)
		}
	}
	if sidecars > 1 {
		return reserved("spec.initContainers", ContainerName)
	}
	present := sidecars > 0
	for i, v := range spec.Volumes {
		if !strings.HasPrefix(v.Name, VolumePrefix) {
			continue
		}
		if v.Name != IdentityVolume && v.Name != StateVolume {
			return reserved(fmt.Sprintf("spec.volumes[%d].name", i), VolumePrefix+"...")
		}
		present = true
	}
	if !present {
		return finding{}
	}
	return c.compareOwn()
}

func reserved(field, name string) finding {
	return finding{ReservedName, fmt.Sprintf("%s: %s is reserved for what is injected; use another name", field, name)}
}

func (c *candidate) compareOwn() finding {
	doc, err := decodePod(c.Raw)
	if err != nil {
		return finding{InvalidPod, err.Error()}
	}
	for _, list := range []struct {
		key  string
		want []any
	}{
		{"initContainers", []any{plain(c.plan.Container)}},
		{"volumes", []any{plain(c.plan.Volumes[0]), plain(c.plan.Volumes[1])}},
	} {
		have, err := doc.list(list.key)
		if err != nil {
			return finding{InvalidPod, err.Error()}
		}
		for _, w := range list.want {
			want := w.(map[string]any)
			i := indexByName(have, want["name"])
			if i < 0 {
				continue
			}
			if _, field := restore(want, have[i].(map[string]any)); field != "" {
				return finding{ReservedName, fmt.Sprintf(
					"spec.%s[%d].%s: it has the name of what is injected (%s) but differs from it; remove it from the pod (if a policy rewrites images or settings, configure the operator with the result)",
					list.key, i, field, want["name"])}
			}
		}
	}
	return finding{}
}

// Fields of the sidecar that others may decide: pull policy (AlwaysPullImages), resources (LimitRanger, autoscalers), and defaults
// that the API server adds and that we do not set.
var othersDecide = []string{"imagePullPolicy", "resources", "resizePolicy"}

// restore is what stands in the pod for want (the sidecar or a volume) when it holds have: ours, with what others may decide. What
// was added to it is dropped. When have contradicts want, the result is the field that does.
func restore(want, have map[string]any) (map[string]any, string) {
	got := maps.Clone(want)
	for _, k := range othersDecide {
		if v, ok := have[k]; ok {
			got[k] = v
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		switch {
		case slices.Contains(othersDecide, k):
		case k == "env" || k == "volumeMounts":
			if !containsAll(want[k], have[k]) {
				return nil, k
			}
		case !covers(want[k], have[k]):
			return nil, k
		}
	}
	return got, ""
}

// covers says whether have is want, but for fields that want does not set.
func covers(want, have any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return false
		}
		for k := range w {
			if !covers(w[k], h[k]) {
				return false
			}
		}
		return true
	case []any:
		h, ok := have.([]any)
		return ok && slices.EqualFunc(w, h, covers)
	}
	return reflect.DeepEqual(want, have)
}

// containsAll says whether every element of want is an element of have.
func containsAll(want, have any) bool {
	h, _ := have.([]any)
	for _, w := range want.([]any) {
		if !slices.ContainsFunc(h, func(e any) bool { return reflect.DeepEqual(w, e) }) {
			return false
		}
	}
	return true
}

// document is a pod's JSON, decoded without types.
type document map[string]any

func decodePod(raw []byte) (document, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // numbers stay what they are
	var doc document
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("decode pod: %w", err)
	}
	if doc == nil {
		return nil, fmt.Errorf("decode pod: it is null")
	}
	return doc, nil
}

// object is a member of the document that has to be an object if it is there; nil when it is not.
func object(parent map[string]any, field string) (map[string]any, error) {
	v, ok := parent[field]
	if !ok || v == nil {
		return nil, nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("read pod: %s is not an object", field)
	}
	return o, nil
}

// list is spec.KEY, whose elements are objects all; nil when it is not there.
func (d document) list(key string) ([]any, error) {
	spec, err := object(d, "spec")
	if err != nil {
		return nil, err
	}
	return objects(spec, key)
}

func objects(parent map[string]any, key string) ([]any, error) {
	v, ok := parent[key]
	if !ok || v == nil {
		return nil, nil
	}
	l, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("read pod: %s is not a list", key)
	}
	for i, e := range l {
		if _, ok := e.(map[string]any); !ok {
			return nil, fmt.Errorf("read pod: %s[%d] is not an object", key, i)
		}
	}
	return l, nil
}

func indexByName(list []any, name any) int {
	return slices.IndexFunc(list, func(e any) bool { return e.(map[string]any)["name"] == name })
}

// plain is a value of ours as the pod's JSON shows it.
func plain[T corev1.Container | corev1.Volume](v T) any {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err)) // API types that we filled ourselves always marshal
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var out any
	if err := d.Decode(&out); err != nil {
		panic(fmt.Sprintf("decode %T: %v", v, err))
	}
	return out
}
