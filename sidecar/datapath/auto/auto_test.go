package auto

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

func fakes(kernel, tun error) []opener {
	return []opener{
		{kind: datapath.Kernel, hubByName: true, probe: func(string, datapath.Interface) error { return kernel }},
		{kind: datapath.TUN, probe: func(string, datapath.Interface) error { return tun }},
		{kind: datapath.Netstack, probe: func(string, datapath.Interface) error { return nil }},
	}
}

func TestProbe(t *testing.T) {
	no := errors.New("not here")
	for _, tc := range []struct {
		choice      string
		kernel, tun error
		want        datapath.Kind
		says        string // in the reason or the error
	}{
		{"Auto", nil, nil, datapath.Kernel, "Kernel works"},
		{"", no, nil, datapath.TUN, "no Kernel: not here"},
		{"Auto", no, no, datapath.Netstack, "no Kernel: not here; no TUN: not here"},
		{"Kernel", nil, no, datapath.Kernel, "asked for"},
		{"Kernel", no, nil, "", "cannot be had: not here"},
		{"TUN", nil, no, "", "cannot be had: not here"},
		{"TUN", no, nil, datapath.TUN, "asked for"},
		{"Netstack", nil, nil, datapath.Netstack, "asked for"},
		{"netstack", nil, nil, "", "is not Auto, Kernel, TUN or Netstack"},
	} {
		kind, reason, err := probe(fakes(tc.kernel, tc.tun), tc.choice, "x", datapath.Interface{})
		if err != nil {
			reason = err.Error()
		}
		if kind != tc.want || (err == nil) != (tc.want != "") || !strings.Contains(reason, tc.says) {
			t.Errorf("%q: got %q, %q, %v", tc.choice, kind, reason, err)
		}
	}
}

// A hub on Kernel keeps less of the contract than one on TUN, so it is there for who says so.
func TestHubByName(t *testing.T) {
	hub := datapath.Interface{Hub: true}
	kind, reason, err := probe(fakes(nil, nil), "Auto", "x", hub)
	if kind != datapath.TUN || !strings.Contains(reason, "no Kernel: a gateway has it where it is asked for by name") || err != nil {
		t.Errorf("got %q, %q, %v", kind, reason, err)
	}
	if kind, _, err := probe(fakes(nil, nil), "Kernel", "x", hub); kind != datapath.Kernel || err != nil {
		t.Errorf("by name: %q, %v", kind, err)
	}
}

var sample = datapath.Interface{Addresses: []netip.Prefix{netip.MustParsePrefix("fd74:6e77::1/128")}, MTU: 1420}

func TestProbeFindsSomething(t *testing.T) {
	kind, reason, err := Probe(Auto, "twprobe", sample)
	if err != nil || reason == "" || len(reason) > 512 {
		t.Fatalf("%q, %q, %v", kind, reason, err)
	}
	t.Log(kind, reason)
	d, err := Open(datapath.Netstack, Options{PrivateKey: key.NewPrivate(), Interface: datapath.Interface{MTU: 1420}})
	if err != nil || d.Kind() != datapath.Netstack {
		t.Fatal(d, err)
	}
	_ = d.Close()
	if d, err := Open(datapath.Netstack, Options{}); err == nil || d != nil {
		t.Fatal("opened without a key", d)
	}
	if _, err := Open("Warp", Options{}); err == nil {
		t.Fatal("opened a datapath that does not exist")
	}
}
