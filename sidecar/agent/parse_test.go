package agent

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// FuzzParseQuestion: a question is about the member alone, or about one of a name and an address, and asking for what it was taken for
// is the same question.
func FuzzParseQuestion(f *testing.F) {
	f.Add("web.acme:80", "10.1.2.3")
	f.Add("WEB.", "")
	f.Add(".", "")
	f.Add(".:80", "::1")
	f.Add("[2001:db8::7]:443", "fe80::1%eth0")
	f.Add("[::ffff:10.0.0.1]", "10.0.0.1/8")
	f.Add("fe80::1%eth0", "")
	f.Add("a b:80", "")
	f.Add("web:0", "")
	f.Add("\x85x", "") // longer once it is lower case
	f.Add("web:65536", "")
	f.Add(strings.Repeat("x", 261), "")
	f.Fuzz(func(t *testing.T, to, from string) {
		q, err := parseQuestion(url.Values{"to": {to}, "from": {from}})
		if err != nil {
			if q != (question{}) {
				t.Errorf("%v, and %+v all the same", err, q)
			}
			return
		}
		if q.asked != to || q.from.IsValid() != (from != "") || q.from.Zone() != "" {
			t.Errorf("%+v of %q from %q", q, to, from)
		}
		if to == "" {
			if q.name != "" || q.addr.IsValid() || q.port != 0 {
				t.Errorf("%+v of nothing", q)
			}
			return
		}
		if q.addr.IsValid() == (q.name != "") || q.addr.Zone() != "" || q.addr.Is4In6() || len(q.name) > len(to) || q.name != strings.ToLower(q.name) {
			t.Errorf("%q is the address %s and the name %q", to, q.addr, q.name)
		}
		if !q.addr.IsValid() {
			return
		}
		text := q.addr.String()
		if q.port != 0 {
			text = netip.AddrPortFrom(q.addr, q.port).String()
		}
		if again, err := parseQuestion(url.Values{"to": {text}}); err != nil || again.addr != q.addr || again.port != q.port {
			t.Errorf("%q became %s, which is %+v, %v", to, text, again, err)
		}
	})
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"8080/TCP", "53/UDP", "0/TCP", "65536/TCP", "80/tcp", "080/TCP", "80", "80/TCP/UDP", "+80/TCP", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePort(s)
		if err != nil {
			if p != (wire.Port{}) {
				t.Errorf("%v, and %v all the same", err, p)
			}
			return
		}
		number, protocol, _ := strings.Cut(s, "/")
		if p.Port == 0 || string(p.Protocol) != protocol || p.Protocol != wire.TCP && p.Protocol != wire.UDP {
			t.Errorf("%q is %+v", s, p)
		}
		if again, err := ParsePort(p.String()); err != nil || again != p || strings.TrimLeft(number, "0")+"/"+protocol != p.String() {
			t.Errorf("%q is %s, which is %v, %v", s, p, again, err)
		}
	})
}

// FuzzAsked gives the loopback's API what it may be sent: an application can be made to send anything. What is taken is whole, within
// bounds, and says nothing that was not understood.
func FuzzAsked(f *testing.F) {
	token := strings.Repeat("0f", wire.BenchTokenSize/2)
	for _, s := range []string{`{}`, `{"filter":"tcp","snapLength":96,"count":3,"seconds":9}`, `{"snapLength":-1}`, `{"filtre":"tcp"}`, `{} {"count":1}`, `{"count":1}]`, `null`,
		`{"from":["10.1.2.3"],"seconds":9}`, `{"from":["10.1.2.3","::"],"seconds":9}`,
		`{"to":["10.1.2.3:9"],"token":"` + token + `","streams":4,"seconds":3,"maxBytes":9}`, `{"to":["10.1.2.3:9"],"token":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, into := range []func() interface{ Validate() error }{
			func() interface{ Validate() error } { return new(wire.BenchAsk) },
			func() interface{ Validate() error } { return new(wire.Capture) },
			func() interface{ Validate() error } { return new(wire.BenchDoor) },
			func() interface{ Validate() error } { return new(wire.BenchRun) },
		} {
			read := func(b []byte) (interface{ Validate() error }, error) {
				v := into()
				return v, asked(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(b)), v)
			}
			v, err := read(body)
			if err != nil {
				continue
			}
			if err := v.Validate(); err != nil || !json.Valid(body) {
				t.Errorf("%T: taken, and %v: %q", v, err, body)
			}
			var fields map[string]any
			if err := json.Unmarshal(body, &fields); err != nil {
				t.Fatal(err)
			}
			for name := range fields {
				if !understands(v, name) {
					t.Errorf("%T: %q was taken, and not understood", v, name)
				}
			}
			once := mustJSON(t, v)
			if w, err := read(once); err != nil || !bytes.Equal(mustJSON(t, w), once) {
				t.Errorf("%s came back as %s, %v", once, mustJSON(t, w), err)
			}
		}
	})
}

// understands says whether a struct has a field of that name in JSON.
func understands(v any, name string) bool {
	of := reflect.TypeOf(v).Elem()
	for i := range of.NumField() {
		tag, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		if strings.EqualFold(tag, name) {
			return true
		}
	}
	return false
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzStore has the files of the state folder hold anything, as after a fault of the disk or by another container's hand: what is read of
// them is whole or not there, and what is kept is read again. A key that cannot be read stays as it is.
func FuzzStore(f *testing.F) {
	s := store{f.TempDir()}
	good := mustKeep(f, s, saved{Revision: "r1", Config: wire.Config{Interface: wire.Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.3/32")}}}})
	f.Add(good, []byte(key.NewPrivate().Reveal()))
	f.Add(good[:len(good)/2], []byte("\n"))
	f.Add(bytes.Replace(good, []byte(`"r1"`), []byte(`""`), 1), []byte(key.NewPrivate().Reveal()+"\n"))
	f.Add([]byte(`{"revision":"r","config":{}}`), []byte{})
	f.Add([]byte(`null`), []byte("AAAA"))
	f.Fuzz(func(t *testing.T, config, private []byte) {
		for name, b := range map[string][]byte{"config.json": config, "key": private} {
			if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if v, ok := s.load(); ok {
			if err := v.Config.Validate(); err != nil || v.Revision == "" {
				t.Errorf("revision %q: %v", v.Revision, err)
			}
			mustKeep(t, s, v)
			if again, ok := s.load(); !ok || !bytes.Equal(mustJSON(t, again), mustJSON(t, v)) {
				t.Errorf("%+v came back as %+v", v, again)
			}
		} else if v.Revision != "" || len(v.Config.Peers) != 0 {
			t.Errorf("nothing that can be used, and %+v all the same", v)
		}
		k, err := s.key()
		if err != nil && k != (key.Private{}) {
			t.Errorf("%v, and a key all the same", err)
		}
		if err == nil {
			if again, err := key.ParsePrivate(k.Reveal()); err != nil || again.Reveal() != k.Reveal() {
				t.Errorf("a key that is not read again: %v", err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(s.dir, "key")); err != nil || !bytes.Equal(b, private) {
			t.Errorf("the file of the key has changed: %v", err)
		}
	})
}

// mustKeep saves a configuration and returns its file.
func mustKeep(t testing.TB, s store, v saved) []byte {
	t.Helper()
	if err := s.save(v); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
