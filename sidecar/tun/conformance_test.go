//go:build linux

package tun_test

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

func openTUN(o conformance.Options) (datapath.Datapath, error) {
	d, err := tun.Open(tun.Options{Name: "wg0", PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func openNetstack(o conformance.Options) (datapath.Datapath, error) {
	d, err := device.Open(device.Options{PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func TestConformance(t *testing.T) {
	hosts.Need(t)
	conformance.Run(t, func(t testing.TB) conformance.Lab { return hosts.New(t, openTUN) })
}

// TestWithNetstack runs the suite between the two userspace datapaths, whichever dials; TUN as gateways have it.
func TestWithNetstack(t *testing.T) {
	hosts.Need(t)
	for name, odd := range map[string]conformanceOpeners{
		"Netstack dials": {openNetstack, openApart}, "TUN dials": {openApart, openNetstack},
	} {
		t.Run(name, func(t *testing.T) {
			conformance.Run(t, func(t testing.TB) conformance.Lab { return hosts.New(t, odd.open) })
		})
	}
}

// conformanceOpeners are those of odd and even hosts.
type conformanceOpeners [2]hosts.Opener

func (c conformanceOpeners) open(o conformance.Options) (datapath.Datapath, error) {
	return c[1-o.Host%2](o)
}
