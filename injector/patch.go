package injector

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// operation is one of RFC 6902.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from,omitempty"`
	Value any    `json:"value,omitempty"`
}

// patcher collects operations against one document. Each step looks at the document as it was sent: steps touch different parts of
// it, and within one part the operations are ordered so that indexes stay true.
type patcher struct {
	doc  document
	spec map[string]any
	plan *Plan
	ops  []operation
}

// Patch is the JSON patch that makes the pod what plan says; nil when it is already. An error means that raw is not a pod that
// Decide lets pass.
func Patch(raw []byte, plan *Plan) ([]byte, error) {
	doc, err := decodePod(raw)
	if err != nil {
		return nil, err
	}
	p := &patcher{doc: doc, plan: plan}
	if p.spec, err = object(doc, "spec"); err != nil {
		return nil, err
	}
	if p.spec == nil {
		return nil, errors.New("patch pod: it has no spec")
	}
	for _, step := range []func() error{p.label, p.trace, p.env, p.sidecar, p.volumes, p.hostAliases, p.sysctls, p.userNamespace} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("patch pod: %w", err)
		}
	}
	return p.marshal()
}

// marshal is the patch as the API server takes it; nil where there is nothing to change.
func (p *patcher) marshal() ([]byte, error) {
	if len(p.ops) == 0 {
		return nil, nil
	}
	out, err := json.Marshal(p.ops)
	if err != nil {
		return nil, fmt.Errorf("marshal patch: %w", err)
	}
	return out, nil
}

func (p *patcher) add(path string, value any) {
	p.ops = append(p.ops, operation{Op: "add", Path: path, Value: value})
}

// append adds values to the list at path, which may not be there yet.
func (p *patcher) append(path string, have []any, values []any) {
	if len(values) == 0 {
		return
	}
	if len(have) == 0 {
		p.add(path, values)
		return
	}
	for _, v := range values {
		p.add(path+"/-", v)
	}
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

func (p *patcher) label() error { return p.setLabel(v1alpha1.LabelTunnel, p.plan.Tunnel) }

func (p *patcher) setLabel(key, value string) error {
	metadata, err := object(p.doc, "metadata")
	if err != nil {
		return err
	}
	labels, err := object(metadata, "labels")
	if err != nil {
		return err
	}
	label := map[string]any{key: value}
	switch {
	case metadata == nil:
		p.add("/metadata", map[string]any{"labels": label})
	case labels == nil:
		p.add("/metadata/labels", label)
	case labels[key] != value:
		p.add("/metadata/labels/"+pointerEscape.Replace(key), value)
	}
	return nil
}

// env comes before the sidecar's step: its indexes are those of the pod as it was sent.
func (p *patcher) env() error {
	for _, key := range []string{"initContainers", "containers"} {
		containers, err := objects(p.spec, key)
		if err != nil {
			return err
		}
		if len(p.plan.Env) == 0 {
			continue
		}
		for i, ct := range containers {
			if key == "initContainers" && ct.(map[string]any)["name"] == ContainerName {
				continue
			}
			have, err := objects(ct.(map[string]any), "env")
			if err != nil {
				return err
			}
			var values []any
			for _, e := range missingEnv(p.plan.Env, func(name string) bool { return indexByName(have, name) >= 0 }) {
				values = append(values, e)
			}
			p.append(fmt.Sprintf("/spec/%s/%d/env", key, i), have, values)
		}
	}
	return nil
}

// sidecar puts the sidecar first: the init containers and sidecars after it have their traffic carried already.
func (p *patcher) sidecar() error {
	have, err := objects(p.spec, "initContainers")
	if err != nil {
		return err
	}
	i := indexByName(have, ContainerName)
	switch {
	case i < 0 && len(have) == 0:
		p.add("/spec/initContainers", []any{p.plan.Container})
		return nil
	case i < 0:
		p.add("/spec/initContainers/0", p.plan.Container)
		return nil
	}
	path := fmt.Sprintf("/spec/initContainers/%d", i)
	if err := p.restore(path, plain(p.plan.Container), have[i]); err != nil {
		return err
	}
	if i > 0 {
		p.ops = append(p.ops, operation{Op: "move", From: path, Path: "/spec/initContainers/0"})
	}
	return nil
}

func (p *patcher) volumes() error {
	have, err := objects(p.spec, "volumes")
	if err != nil {
		return err
	}
	var missing []any
	for _, v := range p.plan.Volumes {
		i := indexByName(have, v.Name)
		if i < 0 {
			missing = append(missing, v)
			continue
		}
		if err := p.restore(fmt.Sprintf("/spec/volumes/%d", i), plain(v), have[i]); err != nil {
			return err
		}
	}
	p.append("/spec/volumes", have, missing)
	return nil
}

func (p *patcher) restore(path string, want, have any) error {
	got, field := restore(want.(map[string]any), have.(map[string]any))
	if field != "" {
		return fmt.Errorf("restore %s: its %s is not ours", path, field)
	}
	if !reflect.DeepEqual(got, have) {
		p.ops = append(p.ops, operation{Op: "replace", Path: path, Value: got})
	}
	return nil
}

func (p *patcher) hostAliases() error {
	have, err := objects(p.spec, "hostAliases")
	if err != nil {
		return err
	}
	var missing []any
	for _, a := range p.plan.hostAliases() {
		if !slices.ContainsFunc(have, func(e any) bool { return e.(map[string]any)["ip"] == a.IP }) {
			missing = append(missing, a)
		}
	}
	p.append("/spec/hostAliases", have, missing)
	return nil
}

func (p *patcher) sysctls() error {
	if len(p.plan.Sysctls) == 0 {
		return nil
	}
	sc, err := object(p.spec, "securityContext")
	if err != nil {
		return err
	}
	have, err := objects(sc, "sysctls")
	if err != nil {
		return err
	}
	var missing []any
	for _, s := range p.plan.Sysctls {
		if indexByName(have, s.Name) < 0 {
			missing = append(missing, s)
		}
	}
	switch {
	case len(missing) == 0:
	case sc == nil:
		p.add("/spec/securityContext", map[string]any{"sysctls": missing})
	default:
		p.append("/spec/securityContext/sysctls", have, missing)
	}
	return nil
}

// userNamespace heeds what the pod says of it already.
func (p *patcher) userNamespace() error {
	if v := p.spec["hostUsers"]; p.plan.UserNamespace && v == nil {
		p.add("/spec/hostUsers", false)
	}
	return nil
}
