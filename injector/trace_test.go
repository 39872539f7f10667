package injector

import (
	"strings"
	"testing"
)

// The trace of a pod's admission is written down, in place of any that came with the pod.
func TestPatchTrace(t *testing.T) {
	const there = `{"metadata":{"annotations":{"tenantwire.dev/trace":"00-old"}}}`
	for _, tt := range []struct{ in, trace, want string }{
		{`{"metadata":{}}`, "00-a", `"path":"/metadata/annotations","value":{"tenantwire.dev/trace":"00-a"}`},
		{`{"metadata":{"annotations":{"a":"b"}}}`, "00-a", `"path":"/metadata/annotations/tenantwire.dev~1trace","value":"00-a"`},
		{there, "00-a", `"path":"/metadata/annotations/tenantwire.dev~1trace","value":"00-a"`},
		{there, "", `"path":"/metadata/annotations/tenantwire.dev~1trace","value":""`},
		{there, "00-old", ""},
		{`{"metadata":{}}`, "", ""},
		{`{"metadata":{"annotations":{"a":"b"}}}`, "", ""},
		{`{"metadata":{"annotations":{"tenantwire.dev/trace":""}}}`, "", ""},
	} {
		doc, err := decodePod([]byte(tt.in))
		if err != nil {
			t.Fatal(err)
		}
		p := &patcher{doc: doc, plan: &Plan{Trace: tt.trace}}
		if err := p.trace(); err != nil {
			t.Fatal(err)
		}
		out, err := p.marshal()
		if err != nil || tt.want == "" && out != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s, %q: %s, %v", tt.in, tt.trace, out, err)
		}
	}
}
