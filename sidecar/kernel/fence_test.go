//go:build linux

package kernel_test

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
	"github.com/tenantwire/tenantwire/sidecar/kernel"
)

func TestFence(t *testing.T) {
	needKernel(t)
	hosts.FallSilent(t, openKernel, func(o conformance.Options, f *datapath.Fence) (datapath.Datapath, error) {
		d, err := kernel.Open(kernel.Options{Name: "wg0", PrivateKey: o.PrivateKey, ListenPort: o.ListenPort, Interface: o.Interface, Fence: f, Apart: true})
		if err != nil {
			return nil, err
		}
		return d, nil
	})
}
