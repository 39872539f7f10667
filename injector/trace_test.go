package injector

import (
	"strings"
	"testing"
)

// The trace of a pod's admission is written down once: what is there stays.
func TestPatchTrace(t *testing.T) {
	for in, want := range map[string]string{
		`{"metadata":{}}`:                                                `"path":"/metadata/annotations","value":{"tenantwire.dev/trace":"00-a"}`,
		`{"metadata":{"annotations":{"a":"b"}}}`:                         `"path":"/metadata/annotations/tenantwire.dev~1trace","value":"00-a"`,
		`{"metadata":{"annotations":{"tenantwire.dev/trace":"00-old"}}}`: "",
	} {
		doc, err := decodePod([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		p := &patcher{doc: doc, plan: &Plan{Trace: "00-a"}}
		if err := p.trace(); err != nil {
			t.Fatal(err)
		}
		out, err := p.marshal()
		if err != nil || want == "" && out != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %s, %v", in, out, err)
		}
	}
}
