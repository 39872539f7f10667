package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// FuzzSaid has a pod say anything: what is taken of it is within the bounds that Validate names and is the same when it is said again, and
// what is refused leaves nothing to show.
func FuzzSaid(f *testing.F) {
	k := key.Public{1, 2}.String()
	device := `{"interface":"wg0","datapath":"TUN","publicKey":"` + k + `","time":"2026-01-02T03:04:05Z","up":true,"peers":[{"publicKey":"` + k +
		`","endpoint":"203.0.113.7:51820","allowedIPs":["10.77.0.3/32"],"pathMTU":1280,"mtuState":"Verified"}]}`
	diagnosis := `{"datapath":"Kernel","publicKey":"` + k + `","time":"2026-01-02T03:04:05Z","dropped":{"Replayed":1},"to":{"asked":"web","kind":"Service","targets":[{"address":"10.77.0.3",
		"port":80,"publicKey":"` + k + `","echoes":[{"bytes":1420,"answered":true}],"dial":{"ok":true}}]}}`
	for _, s := range []string{device, diagnosis, strings.ReplaceAll(device, "wg0", `\u001b[2J`), strings.ReplaceAll(device, "10.77.0.3/32", ""), strings.ReplaceAll(diagnosis, "Replayed", `\n`),
		strings.ReplaceAll(diagnosis, "10.77.0.3", "fe80::1%eth0"), device + diagnosis, `null`, `{}`,
		`{"addresses":["10.77.0.3","fd77::3"],"datapath":"TUN"}`, `{"addresses":["10.77.0.3%eth0"]}`,
		`{"at":["10.77.0.3:40001"],"token":"` + strings.Repeat("0f", wire.BenchTokenSize/2) + `","datapath":"TUN"}`, `{"at":["0.0.0.0:0"],"token":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		saidAgain[wire.Device](t, b)
		saidAgain[wire.Diagnosis](t, b)
		saidAgain[wire.BenchSelf](t, b)
		saidAgain[wire.BenchOpened](t, b)
	})
}

func saidAgain[T any, P interface {
	*T
	Validate() error
}](t *testing.T, b []byte) {
	t.Helper()
	v, err := said[T, P](b, "web-1")
	if err != nil {
		if v != nil || strings.ContainsAny(err.Error(), "\x1b\n\r") {
			t.Errorf("%q, and %+v", err, v)
		}
		return
	}
	if err := v.Validate(); err != nil || !json.Valid(b) {
		t.Errorf("%+v was taken of %q: %v", v, b, err)
	}
	once, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	w, err := said[T, P](once, "web-1")
	if err != nil {
		t.Fatalf("%s: %v", once, err)
	}
	if twice, err := json.Marshal(w); err != nil || !bytes.Equal(once, twice) {
		t.Errorf("%s, then %s, %v", once, twice, err)
	}
}
