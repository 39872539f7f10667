package logs

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// In every format an event is one line, whatever is in it, and a key is not in it.
func TestNew(t *testing.T) {
	k, psk := key.NewPrivate(), key.NewPreshared()
	for _, format := range []string{JSON, Text} {
		var b bytes.Buffer
		l, err := New(&b, "warn", format)
		if err != nil {
			t.Fatal(err)
		}
		l.Info("not said")
		l.Warn("two\nlines", "key", k, "of", struct{ K any }{psk}, "more", "a\nb")
		if strings.Count(b.String(), "\n") != 1 || strings.Contains(b.String(), "not said") {
			t.Errorf("%s: %q", format, b.String())
		}
		if strings.Contains(b.String(), k.Reveal()) || strings.Contains(b.String(), psk.Reveal()) || !strings.Contains(b.String(), "[redacted]") {
			t.Errorf("%s shows a key: %q", format, b.String())
		}
		if json.Valid(b.Bytes()) != (format == JSON) {
			t.Errorf("%s: %q", format, b.String())
		}
	}
	for want, f := range map[string][2]string{`--log-level: "loud" is not`: {"loud", JSON}, `--log-format: "xml" is not json or text`: {"info", "xml"}} {
		if _, err := New(nil, f[0], f[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
