package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// read is a body as a handler reads it.
func read[T any](t *testing.T, body []byte, validate func(T) error) (v T, ok bool) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	err := decode(httptest.NewRecorder(), r, &v)
	if err == nil {
		err = validate(v)
	}
	var refusal *httpError
	if err != nil && (!errors.As(err, &refusal) || refusal.code != http.StatusBadRequest || refusal.text == "") {
		t.Fatalf("%T: not the member's to mend: %v", v, err)
	}
	return v, err == nil
}

// again wants what was read to be read as the same once more: nothing in it is what JSON cannot say.
func again[T any](t *testing.T, v T, validate func(T) error) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%+v was taken, and cannot be written: %v", v, err)
	}
	if w, ok := read(t, b, validate); !ok || !sameJSON(t, v, w) {
		t.Fatalf("%+v came back as %+v", v, w)
	}
}

func sameJSON(t *testing.T, v, w any) bool {
	t.Helper()
	a, err := json.Marshal(v)
	b, err2 := json.Marshal(w)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(a, b)
}

// FuzzBodies has a member, which may be anybody's program, say anything of itself. What is taken is within the bounds of what is written to
// its status, and whole.
func FuzzBodies(f *testing.F) {
	const join = `"join":{"steps":[{"name":"first config","begin":"2026-01-02T03:04:05Z","end":"2026-01-02T03:04:06Z"}]}`
	k := key.Public{1, 2}.String()
	f.Add([]byte(`{"publicKey":"` + k + `","endpoint":"10.1.2.3:51820","datapath":"TUN","datapathReason":"asked for","version":"v1.2.3",` + join + `}`))
	f.Add([]byte(`{"publicKey":"` + k + `","endpoint":"[fe80::1%eth0]:1","datapath":"Netstack","version":"\n"}`))
	f.Add([]byte(`{"publicKey":"` + k + `","endpoint":"10.1.2.3:51820","datapath":"Kernel"} {"ready":true}`))
	f.Add([]byte(`{"ready":true,"reason":"up",` + join + `}`))
	f.Add([]byte(`{"ready":true,"datapathUnavailable":true}`))
	f.Add([]byte(`{"debug":"a capture began","join":{"steps":[{"name":"X"}]}}`))
	f.Add([]byte(`{"peers":[{"publicKey":"` + k + `","connected":true,"lastHandshake":"2026-01-02T03:04:05Z"},{"publicKey":"` + k + `","keptOut":"NoPresharedKey"}]}`))
	f.Add([]byte(`{"peers":[` + strings.Repeat(`{},`, wire.MaxPeerStates) + `{}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		whole := json.Valid(body)
		if reg, ok := read(t, body, validateRegistration); ok {
			if reg.PublicKey.IsZero() || reg.Endpoint.Port() == 0 || !reg.Endpoint.Addr().IsValid() || len(reg.DatapathReason) > 512 || wire.CheckVersion(reg.Version) != nil ||
				reg.Join.Validate() != nil || !slices.Contains([]datapath.Kind{datapath.Kernel, datapath.TUN, datapath.Netstack}, reg.Datapath) || !whole {
				t.Errorf("taken: %+v of %q", reg, body)
			}
			again(t, reg, validateRegistration)
		}
		if rep, ok := read(t, body, validateReport); ok {
			if len(rep.Reason) > 512 || len(rep.Debug) > 512 || rep.Ready && rep.DatapathUnavailable || rep.Join.Validate() != nil || !whole {
				t.Errorf("taken: %+v of %q", rep, body)
			}
			again(t, rep, validateReport)
		}
		if rep, ok := read(t, body, validatePeerReport); ok {
			if len(rep.Peers) > wire.MaxPeerStates || !whole {
				t.Errorf("taken: %d peers of %q", len(rep.Peers), body)
			}
			again(t, rep, validatePeerReport)
		}
	})
}
