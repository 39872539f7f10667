package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/capture"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// syn is a packet from 10.77.0.2:40000 to 10.77.0.3:80.
var syn = []byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 77, 0, 2, 10, 77, 0, 3,
	0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0}

// capturing is a sidecar that shows two packets.
func capturing(t *testing.T, asked *wire.Capture) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.CapturePath, func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(asked); err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Error(err, r.Header)
		}
		w.Header().Set("Trailer", wire.DroppedTrailer+","+wire.EndTrailer)
		out, err := capture.NewWriter(w, 100)
		for range 2 {
			err = errors.Join(err, out.Write(capture.Record{Time: time.Unix(1_800_000_000, 5000), Data: syn, Size: 1500}))
		}
		if err != nil {
			t.Error(err)
		}
		w.Header().Set(wire.DroppedTrailer, "7")
		w.Header().Set(wire.EndTrailer, "the time is over")
	})
	return mux
}

func TestCaptureOfPod(t *testing.T) {
	var asked wire.Capture
	s := podServer{t: t, pod: capturing(t, &asked)}
	p, err := s.namespace().openPod(t.Context(), "web")
	must(t, err)
	defer p.close()
	name := filepath.Join(t.TempDir(), "web.pcap")
	for file, check := range map[string]func(out string){
		"": func(out string) {
			if want := " 10.77.0.2:40000 > 10.77.0.3:80: TCP, 40 bytes\n"; strings.Count(out, want) != 2 {
				t.Errorf("lines %q", out)
			}
		},
		"-": func(out string) { twoPackets(t, out) },
		name: func(string) {
			b, err := os.ReadFile(name)
			must(t, err)
			twoPackets(t, string(b))
			if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
				t.Error(st.Mode(), err)
			}
		},
	} {
		var out bytes.Buffer
		cs := &commands{Streams: Streams{Out: &out, Err: io.Discard}}
		a, err := p.post(t.Context(), wire.CapturePath, wire.Capture{Count: 2})
		must(t, err)
		to, err := cs.captureTo(file)
		must(t, err)
		n, err := copyPackets(a.Body, to)
		must(t, errors.Join(err, to.close()))
		if said := captured(n, a.Trailer.Get(wire.DroppedTrailer), a.Trailer.Get(wire.EndTrailer)); said != "2 packets captured, 7 dropped for want of room; the time is over" || asked.Count != 2 {
			t.Errorf("%q, asked %+v", said, asked)
		}
		a.close()
		check(out.String())
	}
	if _, err := (&commands{}).captureTo(name); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a file that is there: %v", err)
	}
}

func twoPackets(t *testing.T, file string) {
	t.Helper()
	r, err := capture.NewReader(strings.NewReader(file))
	must(t, err)
	for range 2 {
		if p, err := r.Next(); err != nil || !bytes.Equal(p.Data, syn) || p.Size != 1500 {
			t.Errorf("%+v, %v", p, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestCaptureOfPodFails(t *testing.T) {
	for want, pod := range map[string]http.Handler{
		"the sidecar of pod web: spec.debug.capture is not Allowed": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "spec.debug.capture is not Allowed\x1b[2J", http.StatusForbidden)
		}),
		"of a version that does not know this": showing(shown()),
		"nobody answers":                       nil,
	} {
		s := podServer{t: t, pod: pod}
		p, err := s.namespace().openPod(t.Context(), "web")
		must(t, err)
		if _, err := p.post(t.Context(), wire.CapturePath, wire.Capture{}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%v does not say %q", err, want)
		}
		p.close()
	}
	s := podServer{t: t, mute: make(chan struct{})}
	defer close(s.mute)
	p, err := s.namespace().openPod(t.Context(), "web")
	must(t, err)
	defer p.close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := p.post(ctx, wire.CapturePath, wire.Capture{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, 100)
	must(t, err)
	must(t, w.Write(capture.Record{Time: time.Unix(1, 0), Data: syn, Size: 40}))
	if n, err := copyPackets(bytes.NewReader(b.Bytes()[:b.Len()-1]), &captureFile{out: io.Discard}); n != 0 || !errors.Is(err, errCutOff) {
		t.Error(n, err)
	}
}

func TestCaptureWords(t *testing.T) {
	for want, f := range map[string]struct {
		captureFlags
		words []string
	}{
		"--count: -1":             {captureFlags: captureFlags{count: -1}},
		"--snaplen: 39":           {captureFlags: captureFlags{snap: 39}},
		"--duration: 2h0m0s":      {captureFlags: captureFlags{duration: 2 * time.Hour}},
		`"dst" is not host`:       {words: []string{"dst", "port", "80"}},
		"peer: a value is miss":   {words: []string{"peer"}},
		`port: "http" is not a n`: {words: []string{"peer", "laptop", "and", "port", "http"}},
	} {
		if _, err := f.parse(f.words); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	f := captureFlags{duration: 1500 * time.Millisecond}
	if ask, err := f.parse([]string{"peer laptop and port 80"}); err != nil || ask.Seconds != 2 {
		t.Error(ask, err)
	}
	k := key.NewPrivate().Public().String()
	got, err := withKeys([]string{"peer", "laptop", "or peer " + k}, func(name string) (string, error) { return "<" + name + ">", nil })
	if err != nil || got != "peer <laptop> or peer "+k {
		t.Error(got, err)
	}
}

// The flags of a command must not be those that all commands have of kubectl.
func TestCaptureAndBenchHelp(t *testing.T) {
	for _, name := range []string{"capture", "bench"} {
		var out, said bytes.Buffer
		if code := Run(t.Context(), "test", []string{name, "--help"}, Streams{In: strings.NewReader(""), Out: &out, Err: &said}); code != ExitOK || !strings.Contains(out.String(), "spec.debug."+name) {
			t.Errorf("%s: code %d\n%s%s", name, code, &out, &said)
		}
	}
}
