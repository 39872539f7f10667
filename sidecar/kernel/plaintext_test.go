//go:build linux

package kernel_test

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
)

func TestPlaintext(t *testing.T) {
	needKernel(t)
	hosts.RefusePlaintext(t, openKernel)
}
