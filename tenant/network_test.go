package tenant

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the wanted part of testdata/**.txtar")

// Each archive holds the objects of a namespace and, after them, what everybody is told and what is decided. The whole archive is
// compared, so that what is wanted of a member that no longer exists fails as well.
func TestNetworkGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/network/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := &txtar.Archive{Comment: archive.Comment, Files: slices.Clone(archive.Files[:1])}
			state := readState(t, archive.Files[0].Data)
			got.Files = append(got.Files, describe(t, state)...)
			if *update {
				if err := os.WriteFile(file, txtar.Format(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
				t.Errorf("-want +got (rewrite with -update):\n%s", diff)
			}
		})
	}
}

func readState(t *testing.T, data []byte) State {
	t.Helper()
	s := State{Now: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)}
	for doc := range bytes.SplitSeq(data, []byte("---\n")) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind.Kind {
		case "TenantTunnel":
			err = yaml.UnmarshalStrict(doc, &s.Tunnel)
		case "TunnelMember":
			err = add(doc, &s.Members)
		case "TunnelPeer":
			err = add(doc, &s.Peers)
		case "Service":
			err = add(doc, &s.Services)
		case "EndpointSlice":
			err = add(doc, &s.EndpointSlices)
		case "Pod":
			err = add(doc, &s.Pods)
		default:
			err = fmt.Errorf("kind %q", kind.Kind)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func add[T any](doc []byte, list *[]T) error {
	var v T
	err := yaml.UnmarshalStrict(doc, &v)
	*list = append(*list, v)
	return err
}

func describe(t *testing.T, s State) []txtar.File {
	t.Helper()
	var verdicts strings.Builder
	d := DecideTunnel(s.Tunnel, s.Peers, s.Members, s.Now)
	fmt.Fprintf(&verdicts, "tunnel %s: %s: %s\n", s.Tunnel.Name, d.Reason, d.Message)
	decisions := DecidePeers(s.Tunnel, s.Peers, s.Members, s.Now)
	for _, name := range slices.Sorted(maps.Keys(decisions)) {
		fmt.Fprintf(&verdicts, "peer %s: %s: %s\n", name, decisions[name].Reason, decisions[name].Message)
		if a := decisions[name].Addresses; len(a) > 0 {
			fmt.Fprintf(&verdicts, "  at %s\n", strings.Join(a, " "))
		}
	}
	files := []txtar.File{{Name: "decisions", Data: []byte(verdicts.String())}}
	n := NewNetwork(s)
	for _, m := range s.Members {
		cfg, ok := n.Config(m.Name)
		if !ok {
			files = append(files, txtar.File{Name: m.Name, Data: []byte("no such member\n")})
			continue
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		files = append(files, txtar.File{Name: m.Name, Data: text(t, cfg)})
	}
	return files
}

// text is a configuration with one line for each thing in it.
func text(t *testing.T, c wire.Config) []byte {
	t.Helper()
	var b bytes.Buffer
	line := func(what string, v any) {
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", what, j)
	}
	line("interface", c.Interface)
	if c.Limits != nil {
		line("limits", c.Limits)
	}
	if c.Debug != nil {
		line("debug", c.Debug)
	}
	for _, p := range c.Peers {
		line("peer", p)
	}
	for _, s := range c.Services {
		line("service", s)
	}
	for _, p := range c.Inbound {
		line("inbound", p)
	}
	for _, p := range c.Granted {
		line("granted", p)
	}
	for _, g := range c.Grants {
		line("grant", g)
	}
	if c.Zone != nil {
		line("zone", c.Zone)
	}
	for _, r := range c.Relays {
		line("relay", r)
	}
	for _, a := range c.Clients {
		line("client", a)
	}
	if c.Lookups != nil {
		line("lookups", c.Lookups)
	}
	for _, p := range c.Published {
		line("published", p)
	}
	return b.Bytes()
}

func TestNextExpiry(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) v1alpha1.TunnelPeer {
		return v1alpha1.TunnelPeer{Spec: v1alpha1.TunnelPeerSpec{ExpiresAt: &metav1.Time{Time: now.Add(d)}}}
	}
	for _, c := range []struct {
		peers []v1alpha1.TunnelPeer
		want  time.Duration
	}{
		{nil, 0},
		{[]v1alpha1.TunnelPeer{{}, at(-time.Hour), at(0)}, 0},
		{[]v1alpha1.TunnelPeer{at(time.Hour), at(time.Minute), at(-1), at(time.Hour)}, time.Minute},
	} {
		if got := NextExpiry(c.peers, now); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
