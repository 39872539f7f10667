package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// measuring is two sidecars in one, of which the one says lines while it measures.
func measuring(t *testing.T, lines ...string) http.Handler {
	token := strings.Repeat("a1", wire.BenchTokenSize/2)
	at := netip.MustParseAddrPort("[fd07::3]:50000")
	self := wire.BenchSelf{Addresses: []netip.Addr{netip.MustParseAddr("fd07::2")}, Datapath: "TUN"}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.BenchSelfPath, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(self) })
	mux.HandleFunc("POST "+wire.BenchDoorPath, func(w http.ResponseWriter, r *http.Request) {
		var d wire.BenchDoor
		if err := json.NewDecoder(r.Body).Decode(&d); err != nil || d.Validate() != nil || d.From[0] != self.Addresses[0] {
			t.Errorf("%+v %v", d, err)
		}
		_ = json.NewEncoder(w).Encode(wire.BenchOpened{At: []netip.AddrPort{at}, Token: token, Datapath: "Netstack"})
	})
	mux.HandleFunc("POST "+wire.BenchRunPath, func(w http.ResponseWriter, r *http.Request) {
		var run wire.BenchRun
		if err := json.NewDecoder(r.Body).Decode(&run); err != nil || run.Validate() != nil || run.Token != token || run.To[0] != at {
			t.Errorf("%+v %v", run, err)
		}
		for _, l := range lines {
			fmt.Fprintln(w, l)
		}
	})
	return mux
}

func TestBenchOfPods(t *testing.T) {
	idle, up := `{"phase":{"name":"idle","seconds":1,"roundTrips":9,"p50Micros":312,"p99Micros":1250}}`,
		`{"phase":{"name":"up","streams":4,"bytes":500000000,"seconds":1,"bitsPerSecond":4000000000,"roundTrips":9,"p50Micros":900,"p99Micros":40000}}`
	ask := wire.BenchRun{Streams: 4, Seconds: 1, MaxBytes: 1 << 30}
	for name, c := range map[string]struct {
		lines []string
		want  string // of the error; empty: none
	}{
		"done":      {[]string{`{"begins":"idle"}`, idle, up, `{"done":true}`}, ""},
		"failed":    {[]string{idle, `{"error":"up: connect: refused\u001b[2J"}`}, "measure: up: connect: refused"},
		"cut off":   {[]string{idle}, "it was cut off"},
		"nonsense":  {[]string{`{"phase":{"name":"sideways"}}`}, `phase.name: "sideways"`},
		"no JSON":   {[]string{"hello"}, "read what the sidecar says"},
		"long line": {[]string{strings.Repeat("x", maxBenchLine+1)}, "it was cut off"},
	} {
		var out, said bytes.Buffer
		cs := &commands{Streams: Streams{Out: &out, Err: &said}}
		s := podServer{t: t, pod: measuring(t, c.lines...)}
		n := s.namespace()
		a, err := n.openPod(t.Context(), "web")
		must(t, err)
		b, err := n.openPod(t.Context(), "web")
		must(t, err)
		r := &benchReport{From: "a", To: "b"}
		err = cs.measure(t.Context(), a, b, ask, r)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%s: %v does not say %q", name, err, c.want)
			}
			continue
		}
		must(t, err)
		must(t, r.print(&out, listTable))
		want := `PHASE   STREAMS   THROUGHPUT    ROUND TRIP P50   P99
idle    -         -             0.31 ms          1.25 ms
up      4         4.00 Gbit/s   0.90 ms          40.00 ms

from a (TUN) to b (Netstack)
`
		if out.String() != want || said.String() != "measuring: idle\n" {
			t.Errorf("%s\nsaid %q", out.String(), said.String())
		}
		a.close()
		b.close()
	}
}

func TestBenchWords(t *testing.T) {
	good := benchFlags{streams: 4, duration: 2 * time.Second, bytes: "1G"}
	if ask, err := good.parse(); err != nil || ask.Streams != 4 || ask.Seconds != 2 || ask.MaxBytes != 1e9 {
		t.Errorf("%+v %v", ask, err)
	}
	for want, change := range map[string]func(*benchFlags){
		"--streams: 17 is not 1 to 16":       func(f *benchFlags) { f.streams = 17 },
		"--duration: 1.5s is not a number":   func(f *benchFlags) { f.duration = 1500 * time.Millisecond },
		"--duration: 11s":                    func(f *benchFlags) { f.duration = 11 * time.Second },
		`--max-bytes: "lots" is not`:         func(f *benchFlags) { f.bytes = "lots" },
		`--max-bytes: "65Gi" is not`:         func(f *benchFlags) { f.bytes = "65Gi" },
		`--output: "xml" is not json or yam`: func(f *benchFlags) { f.form = "xml" },
	} {
		f := good
		change(&f)
		if _, err := f.parse(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
