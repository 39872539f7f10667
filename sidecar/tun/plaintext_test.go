//go:build linux

package tun_test

import (
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance/hosts"
)

func TestPlaintext(t *testing.T) {
	hosts.Need(t)
	hosts.RefusePlaintext(t, openTUN)
}
