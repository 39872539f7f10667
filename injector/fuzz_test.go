package injector

import (
	"encoding/json"
	"testing"

	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// FuzzInject: whatever pod comes, nothing panics; what is injected is a patch that applies, loses nothing and is whole: the patched
// pod needs no other.
func FuzzInject(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.input.Raw)
	}
	_, injected := injectedPod(f)
	f.Add(injected)
	for _, seed := range []string{`{}`, `null`, `{"spec":null}`, `{"spec":{"containers":[null]}}`, `{"metadata":{"labels":null},"spec":{"initContainers":null}}`,
		`{"spec":{"securityContext":{"sysctls":null},"hostAliases":[{}],"volumes":[]}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// As the API server sends it: one object, every key once.
		var doc map[string]any
		if json.Unmarshal(data, &doc) != nil {
			return
		}
		raw, err := json.Marshal(doc)
		if err != nil {
			return
		}
		pod, err := ParsePod(raw)
		if err != nil {
			return
		}
		in := *testInput()
		in.Tunnels[0].Spec.Proxies = []v1alpha1.Proxy{{Protocol: v1alpha1.SOCKS5, Port: 1080, Env: v1alpha1.ProxyEnvSet}}
		in.Tunnels[0].Spec.Egress[0].Ports[0].Port = 443
		in.Raw, in.Pod = raw, pod
		if len(data)%2 == 0 { // with all that can be granted
			datapath(v1alpha1.DatapathTUN, "privileged")(&in)
			in.Config.TUNResource, in.Config.UserNamespaces = "devices.example/tun", UserNamespacesAlways
		}
		d := Decide(in)
		if d.Outcome != Inject {
			return
		}
		patch, err := Patch(raw, d.Plan)
		if err != nil {
			return // not the shape of a pod: refused
		}
		assertIdempotent(t, in, apply(t, raw, patch))
	})
}
