//go:build linux

package tun_test

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

func TestFence(t *testing.T) {
	hosts.Need(t)
	hosts.FallSilent(t, openTUN, func(o conformance.Options, f *datapath.Fence) (datapath.Datapath, error) {
		d, err := tun.Open(tun.Options{Name: "wg0", PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface, Fence: f, Apart: true})
		if err != nil {
			return nil, err
		}
		return d, nil
	})
}
